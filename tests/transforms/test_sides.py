"""Right and left: in every orientation, with tumours, islands, one kidney, and lungs that touch."""

from collections.abc import Hashable
from itertools import permutations, product
from typing import Any

import cc3d
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from scipy.spatial.transform import Rotation

from custom.anatomy.class_set import ClassSet
from custom.anatomy.loading import load_class_set
from custom.datasets.labels import Sides, side_values
from custom.tools.phantoms.scene import make_phantom
from custom.transforms.sides import SplitSidesd

Label = npt.NDArray[np.uint8]

#: Label values of phantoms: value of both sides, that of the right part and that of the left.
MERGED = {1: (2, 3), 2: (26, 33), 3: (32, 34), 12: (12, 13), 16: (16, 17), 30: (30, 35)}
MERGED_LUNGS = np.array([MERGED[16], MERGED[30]])
LABELS: dict[str, str | list[str]] = {
    "1": "kidneys",
    "2": ["kidney tumor", "kidneys"],
    "3": ["kidney cyst", "kidneys"],
    "12": "adrenal glands",
    "16": "lungs",
    "30": ["lung tumor", "lungs"],
}
TURNS = [
    np.stack([axes, signs], 1) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)
]  # all 48 orders and directions of axes


@pytest.fixture(scope="module")
def sides(class_set: ClassSet) -> Sides:
    return side_values(LABELS, class_set, source="this test")


def phantom(sides: Sides, *, lungs_apart: bool) -> tuple[nib.Nifti1Image, Label, Label]:
    """A phantom's image, its label without sides, and what it becomes. By nature a phantom's lungs touch."""
    drawn = make_phantom(6, spacing=(5.0, 5.0, 5.0))
    if lungs_apart:
        right, left = (np.isin(drawn.label, MERGED_LUNGS[:, side]) for side in (0, 1))
        for lung, other in ((right, left), (left, right)):
            lung &= ~ndimage.binary_dilation(other, np.ones((3, 3, 3)))
            drawn.label[np.isin(drawn.label, MERGED_LUNGS) & ~other & ~(cc3d.largest_k(lung, k=1) > 0)] = 0
    label, truth = np.zeros_like(drawn.label), np.zeros_like(drawn.label)
    parts = {raw: pair for group in sides.values() for raw, pair in group.items()}
    for raw, pair in MERGED.items():
        for own, value in zip(pair, parts[raw], strict=True):
            label[drawn.label == own] = raw
            truth[drawn.label == own] = value
    return nib.Nifti1Image(drawn.image, drawn.affine), label, truth


@pytest.fixture(scope="module")
def patient(sides: Sides) -> tuple[nib.Nifti1Image, Label, Label]:
    image, label, truth = phantom(sides, lungs_apart=True)
    assert set(np.unique(truth)) == {0, 1, 2, 12, 16, *range(31, 37)}  # kidney tumours on both sides
    return image, label, truth


def split(
    label: Label,
    sides: Sides,
    affine: npt.NDArray[np.float64],
    image: npt.NDArray[Any] | None = None,
    *,
    class_set: str = "ct",
) -> tuple[Label, list[str]]:
    """A label's values after the split, and the notes; without an image the body is the whole grid."""
    image = np.zeros(label.shape, np.float32) if image is None else image
    item: dict[Hashable, Any] = {
        "image": MetaTensor(torch.as_tensor(np.ascontiguousarray(image))[None], affine=affine),
        "label": MetaTensor(torch.as_tensor(np.ascontiguousarray(label), dtype=torch.float32)[None], affine=affine),
        "sides": sides,
    }
    result = SplitSidesd("label", load_class_set(class_set))(item)
    np.testing.assert_array_equal(result["label"].affine, affine)
    return result["label"][0].numpy(), result["side_notes"]


def test_equals_the_truth_in_every_orientation(patient: tuple[nib.Nifti1Image, Label, Label], sides: Sides) -> None:
    image, label, truth = patient
    for turn in TURNS:
        turned, turned_label, expected = (
            nib.Nifti1Image(np.asarray(voxels), image.affine).as_reoriented(turn)
            for voxels in (image.dataobj, label, truth)
        )
        found, notes = split(np.asarray(turned_label.dataobj), sides, turned.affine, np.asarray(turned.dataobj))
        np.testing.assert_array_equal(found, np.asarray(expected.dataobj))
        assert notes == []


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_oblique_axes(patient: tuple[nib.Nifti1Image, Label, Label], sides: Sides, axis: str) -> None:
    image, label, truth = patient
    oblique = np.eye(4)
    oblique[:3, :3] = Rotation.from_euler(axis, 25, degrees=True).as_matrix()
    found, notes = split(label, sides, oblique @ image.affine, np.asarray(image.dataobj))
    np.testing.assert_array_equal(found, truth)
    assert notes == []


def test_lungs_of_a_phantom_that_touch(sides: Sides) -> None:
    image, label, truth = phantom(sides, lungs_apart=False)
    found, notes = split(label, sides, image.affine, np.asarray(image.dataobj))
    assert np.count_nonzero(found != truth) < 0.005 * np.count_nonzero(label == 16)
    np.testing.assert_array_equal(found[np.isin(label, (1, 2, 3, 12))], truth[np.isin(label, (1, 2, 3, 12))])
    (note,) = notes
    assert note.startswith("lungs: cut in two")


def test_an_item_without_sides_is_unchanged() -> None:
    label = MetaTensor(torch.ones(1, 2, 2, 2))
    items: list[dict[Hashable, Any]] = [{"label": label}, {"label": label, "sides": {}}]
    for item in items:
        assert SplitSidesd("label", load_class_set())(item)["label"] is label


KIDNEYS: Sides = {"kidneys": {1: (1, 255), 2: (2, 254)}}
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = -79  # the grid's middle, between voxels 39 and 40, is at 0


def ball(x: float, radius: float, *, y: float = 0, z: float = 0) -> npt.NDArray[np.bool_]:
    """A ball on the grid of 80³ voxels of 2 mm, in mm."""
    place = np.indices((80, 80, 80)) * 2 - 79
    return np.asarray(((place - np.array([x, y, z]).reshape(3, 1, 1, 1)) ** 2).sum(0) < radius**2)


def as_label(mask: npt.NDArray[np.bool_], value: int = 1) -> Label:
    return np.where(mask, np.uint8(value), np.uint8(0))


@pytest.mark.parametrize(("x", "value", "side"), [(41, 1, "right"), (-41, 255, "left")])
def test_one_kidney_is_on_its_side_of_the_midline(x: int, value: int, side: str) -> None:
    speck = ball(-x, 3)  # is no other kidney
    found, notes = split(as_label(ball(x, 25) | speck), KIDNEYS, AFFINE)
    np.testing.assert_array_equal(found, as_label(ball(x, 25) | speck, value))
    (note,) = notes
    assert note.startswith(f"kidneys: one side only, the {side} (4")


@pytest.mark.parametrize(("class_set", "body", "air"), [("ct", 40, -1000), ("hippocampus", 0.4, 0)])
def test_the_midline_is_the_bodys_not_the_grids(class_set: str, body: float, air: float) -> None:
    """Also where images have no unit."""
    image = np.where(np.indices((80, 80, 80))[0] > 40, np.float32(body), np.float32(air))  # x from 3 to 79 mm
    found, notes = split(as_label(ball(20, 12)), KIDNEYS, AFFINE, image, class_set=class_set)
    assert set(np.unique(found)) == {0, 255}
    assert "the left (21 mm" in notes[0]


def test_islands_go_to_the_nearer_part() -> None:
    right, left = ball(45, 25), ball(-45, 25)
    near_left = ball(-5, 6)  # nearer to the left kidney, and across the midline
    tumor = ball(50, 12, y=50)
    label = as_label(right | left | near_left) + as_label(tumor, 2)
    found, notes = split(label, KIDNEYS, AFFINE)
    np.testing.assert_array_equal(found, as_label(right) + as_label(left | near_left, 255) + as_label(tumor, 2))
    assert notes == []


def test_a_large_tumor_of_a_lone_kidney_is_no_other_kidney() -> None:
    found, notes = split(as_label(ball(40, 20)) + as_label(ball(45, 13, y=45), 2), KIDNEYS, AFFINE)
    assert set(np.unique(found)) == {0, 1, 2}
    assert "one side only, the right" in notes[0]


@pytest.mark.parametrize("thickness", [2, 4, 8])
def test_lungs_that_touch_are_separated_at_the_bridge(thickness: int) -> None:
    """The right one is larger and crosses the midline; the two touch at x = -10 mm."""
    right, left = ball(30, 38), ball(-42, 30)
    place = np.indices((80, 80, 80)) * 2 - 79
    bridge = (np.abs(place[0] + 10) < 12) & (np.abs(place[1]) < thickness) & (np.abs(place[2]) < thickness)
    found, notes = split(as_label(right | left | bridge), KIDNEYS, AFFINE)
    assert set(np.unique(found[right])) == {1}
    assert set(np.unique(found[left])) == {255}
    (note,) = notes
    assert note.startswith("kidneys: cut in two, where")


def test_a_broad_isthmus_is_cut_near_the_midline() -> None:
    place = np.indices((80, 80, 80)) * 2 - 79
    slab = (np.abs(place[0]) < 60) & (np.abs(place[1]) < 40) & (np.abs(place[2]) < 20)
    slab &= ~((np.abs(place[0] - 7) < 4) & (place[1] > 30))  # narrowest at x = 7 mm
    found, notes = split(as_label(slab), KIDNEYS, AFFINE)
    np.testing.assert_array_equal(found == 255, slab & (place[0] < 7))
    (note,) = notes
    assert note.startswith("kidneys: cut in two, by the plane x = ")


def test_two_kidneys_on_one_side_are_separated_and_noted() -> None:
    found, notes = split(as_label(ball(20, 10)) + as_label(ball(50, 10)), KIDNEYS, AFFINE)
    np.testing.assert_array_equal(found, as_label(ball(20, 10), 255) + as_label(ball(50, 10)))
    assert notes == ["kidneys: both on one side of the body's midline (x 1 mm)"]
