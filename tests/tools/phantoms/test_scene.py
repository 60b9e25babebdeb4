"""The synthetic CT: reproducible, correct sides, plausible HU, the same anatomy at every spacing."""

import numpy as np
import numpy.typing as npt
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from custom.tools.phantoms.scene import LABELS, Phantom, make_phantom

SPACING = (6.0, 6.0, 6.0)


@pytest.fixture(scope="session")
def phantoms() -> list[Phantom]:
    """Patients 0 to 3."""
    return [make_phantom(seed, spacing=SPACING) for seed in range(4)]


@pytest.fixture(params=range(4))
def case(request: pytest.FixtureRequest, phantoms: list[Phantom]) -> Phantom:
    seed: int = request.param
    return phantoms[seed]


def organ(case: Phantom, name: str) -> npt.NDArray[np.bool_]:
    """Voxels (H, W, D) of a class, its tumours included."""
    return np.isin(case.label, [value for value, names in LABELS.items() if name in names])


def centre(case: Phantom, name: str) -> npt.NDArray[np.float64]:
    """Centroid (3,) in RAS+ mm."""
    return np.asarray(apply_affine(case.affine, np.argwhere(organ(case, name)).mean(0)))


def millilitres(case: Phantom, name: str) -> float:
    return float(organ(case, name).sum() * abs(np.linalg.det(case.affine[:3, :3])) / 1000)


def test_a_seed_is_a_patient(phantoms: list[Phantom]) -> None:
    again = make_phantom(0, spacing=SPACING)
    np.testing.assert_array_equal(again.image, phantoms[0].image)
    np.testing.assert_array_equal(again.label, phantoms[0].label)
    np.testing.assert_array_equal(again.affine, phantoms[0].affine)
    assert (phantoms[1].label != phantoms[0].label).mean() > 0.02
    assert not np.allclose(phantoms[1].affine, phantoms[0].affine)


def test_arrays_and_grid(case: Phantom) -> None:
    assert case.image.shape == case.label.shape == (60, 45, 55)
    assert str(case.image.dtype) == "int16"
    assert str(case.label.dtype) == "uint8"
    assert case.image.min() >= -1024
    assert case.image.max() <= 2000
    np.testing.assert_allclose(case.affine[:3, :3], np.diag(SPACING))
    middle = apply_affine(case.affine, (np.array(case.label.shape) - 1) / 2)
    assert np.abs(middle).max() <= 12


def test_classes(phantoms: list[Phantom]) -> None:
    values = [set(np.unique(phantom.label).tolist()) - {0} for phantom in phantoms]
    assert all(drawn <= set(LABELS) and len(drawn) >= 22 for drawn in values)
    assert len({name for drawn in values for value in drawn for name in LABELS[value]}) >= 26


def test_sides(case: Phantom) -> None:
    for right, left in (
        ("right kidney", "left kidney"),
        ("right lung", "left lung"),
        ("right adrenal gland", "left adrenal gland"),
        ("right head of femur", "left head of femur"),
        ("liver", "spleen"),
        ("postcava", "aorta"),
    ):
        assert centre(case, right)[0] > centre(case, left)[0]
    spine = (centre(case, "right head of femur")[0] + centre(case, "left head of femur")[0]) / 2
    assert centre(case, "liver")[0] > spine + 20
    assert centre(case, "spleen")[0] < spine - 50
    assert centre(case, "liver")[2] > centre(case, "bladder")[2] + 100
    assert centre(case, "bladder")[1] > centre(case, "rectum")[1] + 20


def test_hounsfield_units_and_volumes(case: Phantom) -> None:
    assert case.image[0, -1, -1] == pytest.approx(-1000, abs=60)
    for name, low, high in (
        ("liver", 35, 130),
        ("spleen", 30, 140),
        ("right kidney", 0, 210),
        ("left kidney", 0, 210),
        ("aorta", 25, 360),
        ("postcava", 20, 170),
        ("bladder", -10, 40),
        ("right lung", -950, -600),
        ("left lung", -950, -600),
        ("left head of femur", 100, 500),
    ):
        assert low < case.image[organ(case, name)].mean() < high, name
    for name, low, high in (
        ("liver", 700, 1800),
        ("spleen", 50, 350),
        ("right kidney", 80, 250),
        ("left kidney", 80, 250),
        ("pancreas", 20, 90),
        ("bladder", 60, 450),
    ):
        assert low < millilitres(case, name) < high, name


def test_a_tumour_lies_in_its_organ(phantoms: list[Phantom]) -> None:
    seen = 0
    for case in phantoms:
        for value, names in LABELS.items():
            tumour = case.label == value
            if len(names) == 2 and tumour.any():
                seen += 1
                around = ndimage.binary_dilation(organ(case, names[1]) & ~tumour, iterations=5)
                assert (tumour & around).sum() > 0.95 * tumour.sum(), names
    assert seen >= 6


@pytest.mark.parametrize("spacing", [(5.0, 5.0, 5.0), (4.0, 5.0, 8.0)])
def test_the_same_anatomy_at_every_spacing(phantoms: list[Phantom], spacing: tuple[float, float, float]) -> None:
    case, other = phantoms[2], make_phantom(2, spacing=spacing)
    np.testing.assert_allclose(np.diag(other.affine)[:3], spacing)
    for name in ("liver", "spleen", "right kidney", "left kidney", "stomach", "colon", "intestine", "bladder"):
        assert millilitres(other, name) == pytest.approx(millilitres(case, name), rel=0.1), name
        np.testing.assert_allclose(centre(other, name), centre(case, name), atol=2.5)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"spacing must be three numbers in \[0.5, 12\] mm, not"):
        make_phantom(0, spacing=(0.0, 3.0, 3.0))
    with pytest.raises(ValueError, match="seed must be an integer"):
        make_phantom(-1)
