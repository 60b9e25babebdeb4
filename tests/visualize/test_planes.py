"""Choice of sections and their radiological orientation, for any affine."""

from itertools import permutations, product
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from nibabel.affines import from_matvec
from nibabel.orientations import apply_orientation, inv_ornt_aff

from custom.anatomy.class_set import ClassSet
from custom.visualize.planes import PLANES, TALLEST, Panel, choose_cuts, choose_panels, section_areas

SHAPE = (9, 11, 7)
SPLEEN, LIVER, BLADDER, LIVER_TUMOR = 1, 6, 21, 27
Mask = npt.NDArray[np.bool_]


def ball(shape: tuple[int, ...], centre: tuple[int, ...], radius: float) -> Mask:
    grid = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    inside: Mask = (grid**2).sum(0) < radius**2
    return inside


def panels_of(volume: Any, masks: dict[Any, Mask], affine: Any = None) -> list[Panel]:
    return choose_panels(np.asarray(volume, np.float32), [masks], np.eye(4) if affine is None else affine, air=-160)


def cuts_of(masks: dict[Any, Mask], shape: tuple[int, ...]) -> list[int]:
    return choose_cuts({item: section_areas(mask) for item, mask in masks.items()}, shape)


def test_sections_follow_the_radiological_convention(class_set: ClassSet) -> None:
    volume = np.zeros(SHAPE, np.float32)  # RAS: index 0 is left, posterior, inferior
    corner = {(0, 0, 0): 1, (8, 0, 0): 2, (0, 10, 0): 3, (0, 0, 6): 4, (8, 10, 0): 5, (8, 0, 6): 6, (0, 10, 6): 7}
    for index, value in corner.items():
        volume[index] = value
    dot = np.zeros(SHAPE, bool)
    dot[0, 0, 0] = True  # cuts through the left, posterior and inferior faces
    matrix = from_matvec(np.diag([2, 3, 5]), [-100, 40, 7])
    axial, coronal, sagittal = panels_of(volume, {class_set[LIVER]: dot}, matrix)

    def corners(panel: Panel) -> object:
        return panel.pixels[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()  # top left, top right, bottom left, bottom right

    assert corners(axial) == [5, 3, 2, 1]  # top: anterior; left: the patient's right
    assert corners(coronal) == [6, 4, 2, 1]  # top: superior; left: right
    assert corners(sagittal) == [7, 4, 3, 1]  # top: superior; left: anterior
    assert [panel.pixels.shape for panel in (axial, coronal, sagittal)] == [(11, 9), (7, 9), (7, 11)]
    assert [panel.spacing for panel in (axial, coronal, sagittal)] == [(3, 2), (5, 2), (5, 3)]
    captions = ["axial  S 7 mm", "coronal  A 40 mm", "sagittal  L 100 mm"]
    assert [panel.caption for panel in (axial, coronal, sagittal)] == captions
    letters = [panel.plane.letters for panel in (axial, coronal, sagittal)]
    assert letters == ["RLAP", "RLSI", "APSI"]


def test_all_orientations_give_the_same_panels(class_set: ClassSet) -> None:
    volume = np.random.RandomState(0).rand(*SHAPE).astype(np.float32)
    liver, tumor = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    liver[1:7, 2:9, 1:6] = tumor[5:8, 3:6, 2:4] = True
    masks = {class_set[LIVER]: liver, class_set[LIVER_TUMOR]: tumor}
    matrix = from_matvec(np.diag([0.7, 0.7, 5]), [-30, 12.5, 100])
    expected = panels_of(volume, masks, matrix)
    seen = set()
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        turn = np.array(list(zip(order, flips, strict=True)))
        reoriented = {name: apply_orientation(mask, turn) for name, mask in masks.items()}
        own = matrix @ inv_ornt_aff(turn, SHAPE)
        seen.add(nib.aff2axcodes(own))
        for panel, right in zip(panels_of(apply_orientation(volume, turn), reoriented, own), expected, strict=True):
            np.testing.assert_array_equal(panel.pixels, right.pixels)
            assert panel.spacing == pytest.approx(right.spacing)
            assert (panel.plane, panel.caption) == (right.plane, right.caption)
            assert panel.layers[0].keys() == right.layers[0].keys()
            for name, section in panel.layers[0].items():
                np.testing.assert_array_equal(section, right.layers[0][name])
    assert len(seen) == 48


def test_sections_pass_through_the_largest_structure(class_set: ClassSet) -> None:
    shape = (60, 50, 40)
    liver, spleen = ball(shape, (40, 25, 20), 12), ball(shape, (12, 36, 14), 6)
    masks = {class_set[SPLEEN]: spleen, class_set[LIVER]: liver}
    for plane, index in zip(PLANES, cuts_of(masks, shape), strict=True):
        areas = np.count_nonzero(liver, axis=tuple({0, 1, 2} - {plane.axis}))
        assert areas[index] >= 0.8 * areas.max(), plane.name
    assert cuts_of({class_set[LIVER]: liver}, shape) == [20, 25, 40]
    axial, _, sagittal = panels_of(np.zeros(shape), masks)
    assert set(axial.layers[0]) == set(masks)  # 14 is within the wide part of the liver
    assert set(sagittal.layers[0]) == {class_set[LIVER]}  # no cut of the liver meets the spleen


def test_the_largest_structure_is_cut_narrower_where_that_shows_more(class_set: ClassSet) -> None:
    shape = (40, 40, 40)
    liver, tumor = ball(shape, (20, 20, 20), 15), np.zeros(shape, bool)
    tumor[30:32, 8:10, 30:32] = True  # beyond 80 % of the width in every plane
    masks = {class_set[LIVER]: liver, class_set[LIVER_TUMOR]: tumor}
    axial, _, _ = cuts = cuts_of(masks, shape)
    assert tumor[:, :, axial].any()
    for plane, index in zip(PLANES, cuts, strict=True):
        areas = np.count_nonzero(liver, axis=tuple({0, 1, 2} - {plane.axis}))
        assert areas[index] >= 0.5 * areas.max()


def test_a_small_structure_is_visible_beside_a_large_one(class_set: ClassSet) -> None:
    liver, tumor = ball((40, 40, 40), (20, 20, 20), 15), np.zeros((40, 40, 40), bool)
    tumor[24:26, 15:17, 24:26] = True
    masks = {class_set[LIVER]: liver, class_set[LIVER_TUMOR]: tumor}
    for panel in panels_of(np.zeros(liver.shape), masks):
        assert set(panel.layers[0]) == set(masks)


def test_without_structures_sections_are_central(class_set: ClassSet) -> None:
    assert choose_cuts({}, SHAPE) == [3, 5, 4]
    panels = panels_of(np.zeros(SHAPE), {class_set[LIVER]: np.zeros(SHAPE, bool)})
    assert all(panel.layers == ({},) for panel in panels)


def test_the_first_non_empty_layer_decides(class_set: ClassSet) -> None:
    shape = (30, 30, 30)
    truth, found = ball(shape, (10, 10, 10), 6), ball(shape, (12, 20, 20), 9)
    image, liver = np.zeros(shape, np.float32), class_set[LIVER]
    axial, _, _ = choose_panels(image, [{liver: truth}, {liver: found}], np.eye(4), air=-160)
    np.testing.assert_array_equal(axial.layers[0][liver], truth[:, :, 10].T[::-1, ::-1])
    assert liver not in axial.layers[1]  # the prediction lies higher
    axial, _, _ = choose_panels(image, [{liver: truth & False}, {liver: found}], np.eye(4), air=-160)
    np.testing.assert_array_equal(axial.layers[1][liver], found[:, :, 20].T[::-1, ::-1])


def test_air_around_the_body_is_cropped_alike_in_all_planes(class_set: ClassSet) -> None:
    image = np.full((100, 80, 60), -1000, np.float32)
    image[30:70, 20:60] = 40
    image[5:95, 5] = 40  # a table
    outside = np.zeros(image.shape, bool)
    outside[75:78, 40:43, 30] = True
    masks = {class_set[LIVER]: ball(image.shape, (50, 40, 30), 10), class_set[SPLEEN]: outside}
    axial, coronal, sagittal = panels_of(image, masks, np.diag([2, 2, 2, 1]))
    rows, columns = 40 + 2 * 4, 48 + 2 * 4  # 8 mm around the body, and around the structure beyond it
    assert axial.pixels.shape == (rows, columns)
    assert coronal.pixels.shape == (60, columns)
    assert sagittal.pixels.shape == (60, rows)
    assert all(section.shape == axial.pixels.shape for section in axial.layers[0].values())


def test_a_tall_image_is_cropped_around_its_structures(class_set: ClassSet) -> None:
    shape = (20, 20, 400)
    for low, high in ((5, 15), (185, 215), (380, 400), (20, 390)):
        mask = np.zeros(shape, bool)
        mask[5:15, 5:15, low:high] = True
        _, coronal, sagittal = panels_of(np.zeros(shape), {class_set[BLADDER]: mask}, np.diag([2, 2, 3, 1]))
        section = coronal.layers[0][class_set[BLADDER]]
        assert section.any(axis=1).sum() == high - low
        assert section.shape[0] * 3 == pytest.approx(max(TALLEST, (high - low) * 3), abs=24)
        assert coronal.pixels.shape[0] == sagittal.pixels.shape[0]
