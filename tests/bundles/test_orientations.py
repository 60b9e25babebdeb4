"""However an image's axes lie, the same patient gets the same masks in world space."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

from custom.tools.phantoms.scene import make_phantom

if TYPE_CHECKING:
    from tests.helpers.small_bundle import Bundle, Small

TURNS = [np.array(list(zip(p, f, strict=True))) for p, f in product(permutations(range(3)), product((1, -1), repeat=3))]


@pytest.fixture(scope="module")
def patient() -> nib.Nifti1Image:
    """Voxels whose three sides differ, from each other and from the 12 mm that the network works at."""
    phantom = make_phantom(1, spacing=(12.0, 10.0, 11.0))
    return nib.Nifti1Image(phantom.image, phantom.affine)


def masks_of(bundle: Bundle, images: list[nib.Nifti1Image], folder: Path, **settings: Any) -> list[nib.Nifti1Image]:
    """The masks of the liver, each as written for its image."""
    paths = [folder / f"{index}.nii.gz" for index in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        nib.save(image, path)
    bundle.infer([str(path) for path in paths], folder / "out", **settings)
    return [nib.load(folder / "out" / str(index) / "liver.nii.gz") for index in range(len(images))]


def voxels(image: nib.Nifti1Image) -> npt.NDArray[Any]:
    return np.asarray(image.dataobj)


@pytest.mark.parametrize("turns", [TURNS[5::11], pytest.param(TURNS, marks=pytest.mark.slow)], ids=["few", "all"])
def test_axis_orientations(
    bundle: Bundle, patient: nib.Nifti1Image, tmp_path: Path, turns: list[npt.NDArray[np.int_]]
) -> None:
    images = [patient, *(patient.as_reoriented(turn) for turn in turns)]
    assert len({nib.aff2axcodes(image.affine) for image in images[1:]}) == len(turns)
    expected, *masks = (nib.as_closest_canonical(mask) for mask in masks_of(bundle, images, tmp_path))
    assert 0.02 < voxels(expected).mean() < 0.6
    for mask in masks:
        np.testing.assert_allclose(mask.affine, expected.affine, atol=1e-4)
        np.testing.assert_array_equal(voxels(mask), voxels(expected))


def test_an_oblique_image(bundle: Bundle, small: Small, patient: nib.Nifti1Image, tmp_path: Path) -> None:
    """The patient sampled on a grid turned by 20 degrees about two axes.

    By a network that segments by intensity alone: one that sees shapes must learn to segment turned patients.
    """
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xz", [20, 20], degrees=True).as_matrix()
    oblique = resample_from_to(patient, (patient.shape, turn @ patient.affine), order=1, cval=-1000)
    straight, turned = masks_of(bundle, [patient, oblique], tmp_path, weights=small.local_weights)
    back = voxels(resample_from_to(turned, straight, order=0))
    seen = voxels(
        resample_from_to(nib.Nifti1Image(np.ones(patient.shape, np.uint8), oblique.affine), straight, order=0)
    )
    one, two = voxels(straight)[seen > 0] > 0, back[seen > 0] > 0
    right = _dice(one, two)
    assert right > 0.65
    assert _dice(one, voxels(straight)[::-1][seen > 0] > 0) < right - 0.2  # mirrored
    assert _dice(one, voxels(turned)[seen > 0] > 0) < right - 0.2  # as if it were not turned


def _dice(one: npt.NDArray[Any], two: npt.NDArray[Any]) -> float:
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))
