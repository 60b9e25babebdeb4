"""The synthetic CT: reproducible, sided as a patient, plausible in HU, the same anatomy at every spacing."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from custom.phantom import LABELS, Phantom, make_phantom, write_phantoms

SEEDS = (0, 1, 2)


@cache
def phantom(seed: int, step: float = 5.0) -> Phantom:
    return make_phantom(seed, spacing=(step, step, step))


def organ(case: Phantom, name: str) -> npt.NDArray[np.bool_]:
    """Voxels (H, W, D) of a class, its tumours included."""
    return np.isin(case.label, [value for value, names in LABELS.items() if name in names])


def centre(case: Phantom, name: str) -> npt.NDArray[np.float64]:
    """Centroid (3,) in RAS+ mm."""
    return np.asarray(apply_affine(case.affine, np.argwhere(organ(case, name)).mean(0)))


def millilitres(case: Phantom, name: str) -> float:
    return float(organ(case, name).sum() * abs(np.linalg.det(case.affine[:3, :3])) / 1000)


def test_a_seed_is_a_patient() -> None:
    again = make_phantom(0, spacing=(5.0, 5.0, 5.0))
    np.testing.assert_array_equal(again.image, phantom(0).image)
    np.testing.assert_array_equal(again.label, phantom(0).label)
    np.testing.assert_array_equal(again.affine, phantom(0).affine)
    assert (phantom(1).label != phantom(0).label).mean() > 0.02
    assert not np.allclose(phantom(1).affine, phantom(0).affine)


def test_arrays_and_grid() -> None:
    case = phantom(0)
    assert case.image.shape == case.label.shape == (72, 54, 66)
    assert str(case.image.dtype) == "int16"
    assert str(case.label.dtype) == "uint8"
    assert case.image.min() >= -1024
    assert case.image.max() <= 2000
    np.testing.assert_allclose(case.affine[:3, :3], 5 * np.eye(3))
    middle = apply_affine(case.affine, (np.array(case.label.shape) - 1) / 2)
    assert np.abs(middle).max() <= 12


def test_classes() -> None:
    found = {name for seed in SEEDS for value in np.unique(phantom(seed).label)[1:] for name in LABELS[int(value)]}
    assert len(found) >= 26
    for seed in SEEDS:
        values = set(np.unique(phantom(seed).label)) - {0}
        assert values <= set(LABELS)
        assert len(values) >= 22


@pytest.mark.parametrize("seed", SEEDS)
def test_sides(seed: int) -> None:
    case = phantom(seed)
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


@pytest.mark.parametrize("seed", SEEDS)
def test_hounsfield_units_and_volumes(seed: int) -> None:
    case = phantom(seed)
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


def test_a_tumour_lies_in_its_organ() -> None:
    seen = 0
    for case in map(phantom, range(4)):
        for value, names in LABELS.items():
            tumour = case.label == value
            if len(names) == 2 and tumour.any():
                seen += 1
                around = ndimage.binary_dilation(organ(case, names[1]) & ~tumour, iterations=5)
                assert (tumour & around).sum() > 0.95 * tumour.sum(), names
    assert seen >= 6


@pytest.mark.parametrize("spacing", [(3.0, 3.0, 3.0), (3.0, 4.0, 8.0)])
def test_the_same_anatomy_at_every_spacing(spacing: tuple[float, float, float]) -> None:
    case, other = phantom(2, 4.0), make_phantom(2, spacing=spacing)
    np.testing.assert_allclose(np.diag(other.affine)[:3], spacing)
    for name in ("liver", "spleen", "right kidney", "left kidney", "stomach", "colon", "intestine", "bladder"):
        assert millilitres(other, name) == pytest.approx(millilitres(case, name), rel=0.1), name
        np.testing.assert_allclose(centre(other, name), centre(case, name), atol=2.5)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"spacing must be three numbers in \[0.5, 12\] mm, not"):
        make_phantom(0, spacing=(0.0, 3.0, 3.0))
    with pytest.raises(ValueError, match="seed must be an integer"):
        make_phantom(-1)
    with pytest.raises(ValueError, match="splits must be counts"):
        write_phantoms("unused", count=3, splits={"training": 2})


def test_written_files(tmp_path: Path) -> None:
    spacing = (9.0, 8.0, 10.0)
    splits = {"training": 1, "validation": 0, "test": 1}
    arguments: dict[str, Any] = {"count": 2, "seed": 3, "spacing": spacing, "splits": splits}
    seen: list[int] = []
    path = write_phantoms(tmp_path, **arguments, on_case=seen.append)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert seen == [0, 1]
    assert content["labels"]["27"] == ["liver tumor", "liver"]
    assert [len(content[name]) for name in ("training", "validation", "test")] == [1, 0, 1]
    case = make_phantom(4, spacing=spacing)
    for kind, voxels in (("image", case.image), ("label", case.label)):
        file = nib.nifti1.load(tmp_path / content["test"][0][kind])
        assert file.get_data_dtype() == voxels.dtype
        assert file.header.get_xyzt_units()[0] == "mm"
        assert nib.orientations.aff2axcodes(file.affine) == ("R", "A", "S")
        for affine, code in (file.get_sform(coded=True), file.get_qform(coded=True)):
            assert code > 0
            np.testing.assert_allclose(affine, case.affine, atol=1e-3)
        np.testing.assert_array_equal(np.asarray(file.dataobj), voxels)
    assert not list(tmp_path.rglob(".*"))

    files = sorted(tmp_path.rglob("*.nii.gz"))
    times = [file.stat().st_mtime_ns for file in files]
    write_phantoms(tmp_path, **arguments)
    assert [file.stat().st_mtime_ns for file in files] == times
    files[0].unlink()
    write_phantoms(tmp_path, **arguments)
    assert files[0].exists()
    assert files[1].stat().st_mtime_ns == times[1]
    others: list[dict[str, Any]] = [{"seed": 9}, {"spacing": (9.0, 9.0, 9.0)}]
    for other in others:
        with pytest.raises(ValueError, match="choose an empty output_dir, or replace it with overwrite=True"):
            write_phantoms(tmp_path, **{**arguments, **other})
    write_phantoms(tmp_path, **{**arguments, "seed": 9}, overwrite=True)
    assert files[1].stat().st_mtime_ns != times[1]
