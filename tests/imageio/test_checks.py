"""What looks like CT in HU and what does not; what `LoadVolumed` lets through."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from custom.anatomy.class_set import ClassSet
from custom.anatomy.loading import load_class_set
from custom.datasets.labels import side_values, value_table
from custom.imageio.checks import check_intensities, intensity_window
from custom.tools.phantoms.scene import make_phantom
from custom.transforms.load import LoadVolumed

Values = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def ct() -> Values:
    """A phantom of 6 mm voxels, with air around it."""
    return make_phantom(0, spacing=(6.0, 6.0, 6.0)).image.astype(np.float32)


def padded(values: Values, by: float) -> Values:
    """Outside the scanner's round field of view."""
    x, y = (np.arange(n) / n - 0.5 for n in values.shape[:2])
    far = x[:, None] ** 2 + y[None] ** 2 > 0.25
    result = values.copy()
    result[far] = by
    return result


def with_metal(values: Values, size: int = 3) -> Values:
    result = values.copy()
    result[28 : 28 + size, 15 : 15 + size, 20 : 20 + size] = 20000
    return result


def noisy(values: Values) -> Values:
    """Air is never constant."""
    return values + np.random.RandomState(0).normal(0, 25, values.shape).astype(np.float32).round()


def inside_organs(values: Values) -> Values:
    """A cube of 5 cm without air and with little fat."""
    cubes = (values[i : i + 8, j : j + 8, k : k + 8] for i, j, k in np.ndindex(50, 36, 46))
    return next(cube for cube in cubes if cube.min() > -20 and cube.max() < 250)


PLAUSIBLE: dict[str, Callable[[Values], Any]] = {
    "whole": lambda v: v,
    "padded": lambda v: padded(v, -3024),
    "padded twice": lambda v: padded(padded(v, -3024)[2:-2], -2000),
    "noisy": noisy,
    "chest": lambda v: noisy(v)[:, :, 32:],
    "much metal": lambda v: with_metal(v, 14),
    "dense contrast": lambda v: np.where((v > 80) & (v < 250), v + 400, v),
    "masked": lambda v: np.where(v < -300, 0, v),
    "windowed": lambda v: v.clip(-175, 250),
    "metal": with_metal,
    "inside organs": inside_organs,
    "water": lambda v: np.random.RandomState(0).normal(0, 10, (9, 9, 9)).round(),
}
IMPLAUSIBLE: dict[str, Callable[[Values], Any]] = {
    "[-1, 1]": lambda v: v.clip(-175, 250) / 250,
    "8 bit": lambda v: (v.clip(-175, 250) + 175).round() // 2,
    "no intercept": lambda v: (v + 1024).clip(0),
    "no intercept, padded": lambda v: padded(v + 1024, -2000),
    "no intercept, padded as with air": lambda v: padded(v + 1024, -1000),
    "no intercept, padded and noisy": lambda v: padded(noisy(v) + 1000, -1024),
    "no intercept, noisy": lambda v: noisy(v) + 1024,
    "intercept twice, clipped": lambda v: (v - 1024).clip(-1024),
    "intercept twice": lambda v: v - 1024,
    "unit variance": lambda v: (v - v.mean()) / v.std(),
    "metres": lambda v: v / 1000,
    "MR": lambda v: np.where(v < -300, 0, 400 + v),
    "constant": lambda v: v * 0 + 40,
    "air": lambda v: np.full_like(v, -1000),
}


@pytest.mark.parametrize("kind", PLAUSIBLE)
def test_ct_in_hu_is_let_through(ct: Values, class_set: ClassSet, kind: str) -> None:
    check_intensities(PLAUSIBLE[kind](ct), class_set, source="ct.nii.gz")


@pytest.mark.parametrize("kind", IMPLAUSIBLE)
def test_what_is_clearly_not_in_hu_is_refused(ct: Values, class_set: ClassSet, kind: str) -> None:
    values = IMPLAUSIBLE[kind](ct)
    seen = rf"^ct\.nii\.gz .*HU.*range from {values.min():g} to {values.max():g}, .*--check_intensity False"
    with pytest.raises(ValueError, match=seen):
        check_intensities(values, class_set, source="ct.nii.gz")


def test_other_modalities_need_no_air(ct: Values, class_set: ClassSet) -> None:
    mr = replace(class_set, modality="MR", intensity_window=(0.0, 1500.0), plausible_intensity=(0.0, 10000.0))
    check_intensities(IMPLAUSIBLE["MR"](ct), mr, source="mr.nii.gz")
    with pytest.raises(ValueError, match="the unit of MR"):
        check_intensities(ct.clip(0, 250) / 250, mr, source="mr.nii.gz")


def test_intensities_without_a_unit_are_judged_by_their_own_percentiles(ct: Values) -> None:
    mr = load_class_set("hippocampus")
    for scaled in (ct + 1024, (ct + 1024) / 4000, (ct + 1024) * 90):
        check_intensities(scaled.clip(0), mr, source="mr.nii.gz")
        low, high = intensity_window(scaled.clip(0), mr)
        inside = (scaled.clip(0) >= low) & (scaled.clip(0) <= high)
        assert 0.98 < inside.mean() <= 1
    for wrong, why in ((ct, "outside the plausible range"), (ct * 0 + 40, "shows no structure")):
        with pytest.raises(ValueError, match=why):
            check_intensities(wrong, mr, source="mr.nii.gz")


def test_values_for_split_sides_are_no_raw_values(class_set: ClassSet, tmp_path: Path) -> None:
    labels: dict[str, str | list[str]] = {"1": "kidneys"}
    table, sides = (make(labels, class_set, source="") for make in (value_table, side_values))
    item: dict[Any, Any] = {"label": tmp_path / "label.nii", "value_table": table, "sides": sides}
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 2, np.uint8), np.eye(4)), item["label"])
    load = LoadVolumed("label", class_set)
    with pytest.raises(ValueError, match=r"those that dataset.json declares \(0, 1\); found 2"):
        load(item)
