"""Clean-up of masks, rule by rule, in any orientation."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from custom.anatomy.class_set import ClassSet
from custom.inferers.result import Segmentation
from custom.tools.phantoms.scene import make_phantom
from custom.transforms.postprocessing import PostProcessd, PostProcessing
from custom.utils.masks import Mask

SPLEEN, LIVER, PORTAL, PANCREAS, LIVER_TUMOR, KIDNEY_TUMOR = 1, 6, 10, 11, 27, 26
RIGHT_KIDNEY, LEFT_KIDNEY, RIGHT_LUNG, LEFT_LUNG = 2, 3, 16, 17
SHAPE = (40, 36, 32)


def blocks(*boxes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]) -> Mask:
    """Boxes of voxels in RAS: from the patient's left to the right, from back to front, from below up."""
    mask = np.zeros(SHAPE, bool)
    for box in boxes:
        mask[tuple(slice(*ends) for ends in box)] = True
    return mask


def clean(class_set: ClassSet, masks: dict[int, Mask], axes: str = "RAS", voxel: float = 1.5) -> dict[int, Mask]:
    """Clean masks given in RAS as a volume with other axes, and reorient them back."""
    affine = np.diag([voxel, voxel, voxel, 1.0])
    turn = nib.orientations.axcodes2ornt(axes)
    back = nib.orientations.ornt_transform(turn, nib.orientations.axcodes2ornt("RAS"))
    there = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), turn)
    turned = affine @ nib.orientations.inv_ornt_aff(there, SHAPE)
    given = {label: np.ascontiguousarray(nib.apply_orientation(mask, there)) for label, mask in masks.items()}
    before = {label: mask.copy() for label, mask in given.items()}
    assert "".join(nib.aff2axcodes(turned)) == axes
    cleaned = PostProcessing(class_set)(given, turned)
    assert all((given[label] == before[label]).all() for label in masks), "the masks given must stay as they are"
    return {label: nib.apply_orientation(mask, back) for label, mask in cleaned.items()}


def test_single_organs_are_those_of_the_specification(class_set: ClassSet) -> None:
    single = [item.index for item in class_set if item.cleanup == ("largest component",)]
    assert single == [*range(1, 10), *range(11, 15), *range(18, 26)]
    others = {item.name for item in class_set if item.cleanup and item.index not in single}
    assert others == {"portal vein and splenic vein", "right lung", "kidney tumor", "liver tumor"}


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
def test_every_rule_in_any_orientation(class_set: ClassSet, axes: str) -> None:
    spleen, liver = ((5, 10), (5, 10), (5, 10)), ((20, 34), (10, 30), (10, 20))
    vein = ((15, 25), (12, 14), (4, 30))
    right, left = ((25, 35), (5, 25), (22, 32)), ((3, 15), (5, 25), (22, 32))
    masks = {
        SPLEEN: blocks(spleen, ((30, 32), (30, 32), (25, 27))),
        LIVER: blocks(liver),
        PANCREAS: blocks(((12, 20), (10, 14), (9, 12)), ((12, 14), (10, 14), (2, 3))),  # an island below
        PORTAL: blocks(vein),
        RIGHT_LUNG: blocks(right, ((3, 8), (5, 25), (22, 32))),  # much of the left lung called right
        LEFT_LUNG: blocks(((8, 15), (5, 25), (22, 32)), ((34, 35), (6, 7), (23, 24)), ((18, 19), (0, 1), (0, 1))),
        LIVER_TUMOR: blocks(((30, 36), (20, 24), (12, 16)), ((2, 6), (2, 6), (2, 6))),
    }
    expected = masks | {
        SPLEEN: blocks(spleen),
        PANCREAS: blocks(((12, 20), (10, 14), (9, 12))),
        PORTAL: blocks(((15, 25), (12, 14), (9, 30))),
        RIGHT_LUNG: blocks(right),
        LEFT_LUNG: blocks(left),
        LIVER_TUMOR: blocks(((30, 36), (20, 24), (12, 16))),  # two voxels beyond the liver's edge
    }
    cleaned = clean(class_set, masks, axes)
    for label, mask in expected.items():
        np.testing.assert_array_equal(cleaned[label], mask, err_msg=class_set[label].name)


def test_a_tumour_may_reach_3_mm_out_of_its_organ_and_fill_its_holes(class_set: ClassSet) -> None:
    hollow = blocks(((10, 30), (10, 30), (10, 20))) & ~blocks(((15, 18), (15, 18), (13, 16)))
    tumor = blocks(((15, 18), (15, 18), (13, 16)), ((28, 38), (20, 21), (15, 16)))
    for voxel, beyond in ((1.5, 2), (3.0, 1), (6.0, 1)):
        found = clean(class_set, {LIVER: hollow, LIVER_TUMOR: tumor}, voxel=voxel)[LIVER_TUMOR]
        if voxel == 1.5:
            assert found[15:18, 15:18, 13:16].all()
        assert np.flatnonzero(found[:, 20, 15]).max() == 29 + beyond


def test_organs_are_cleaned_before_what_lies_in_them(class_set: ClassSet) -> None:
    """A tumour in a stray piece of liver goes with that piece; a vein ends at the pancreas that is kept."""
    liver, stray = ((10, 30), (10, 30), (10, 20)), ((2, 6), (2, 6), (2, 6))
    masks = {LIVER: blocks(liver, stray), LIVER_TUMOR: blocks(((15, 18), (15, 18), (13, 16)), ((3, 5), (3, 5), (3, 5)))}
    assert not clean(class_set, masks)[LIVER_TUMOR][:8].any()
    masks = {
        PANCREAS: blocks(((10, 30), (10, 20), (12, 20)), ((2, 4), (2, 4), (0, 2))),
        PORTAL: blocks(((15, 18), (12, 14), (2, 30))),
    }
    assert np.flatnonzero(clean(class_set, masks)[PORTAL].any((0, 1))).min() == 12


def test_a_rule_needs_all_its_classes_requested(class_set: ClassSet) -> None:
    tumor, kidney = blocks(((2, 6), (2, 6), (2, 6))), blocks(((20, 30), (10, 20), (10, 20)))
    vein, lung = blocks(((15, 25), (12, 14), (4, 30))), blocks(((3, 9), (5, 25), (22, 32)), ((20, 30), (5, 9), (2, 9)))
    masks = {KIDNEY_TUMOR: tumor, RIGHT_KIDNEY: kidney, PORTAL: vein, RIGHT_LUNG: lung}
    cleaned = clean(class_set, masks)
    assert cleaned.keys() == masks.keys()
    assert all((cleaned[label] == mask).all() for label, mask in masks.items())
    assert not clean(class_set, masks | {LEFT_KIDNEY: np.zeros(SHAPE, bool)})[KIDNEY_TUMOR].any()


def test_lungs_that_touch_keep_the_sides_they_have_and_lose_noise(class_set: ClassSet) -> None:
    nothing, noise = np.zeros(SHAPE, bool), blocks(((2, 3), (2, 3), (2, 3)))
    right, left = blocks(((20, 35), (5, 25), (5, 25))), blocks(((5, 20), (5, 25), (5, 25)))
    for lungs in ((right, left), (right, nothing), (nothing, nothing)):
        given = {RIGHT_LUNG: lungs[0] | (noise if lungs[0].any() else nothing), LEFT_LUNG: lungs[1]}
        cleaned = clean(class_set, given)
        assert (cleaned[RIGHT_LUNG] == lungs[0]).all() and (cleaned[LEFT_LUNG] == lungs[1]).all()


def test_a_recess_of_the_right_lung_that_touches_the_left_lung_stays_right(class_set: ClassSet) -> None:
    recess, behind = ((20, 26), (28, 32), (5, 15)), ((26, 38), (2, 8), (5, 15))
    masks = {RIGHT_LUNG: blocks(recess, behind), LEFT_LUNG: blocks(((2, 20), (22, 32), (5, 15)))}
    cleaned = clean(class_set, masks)
    assert all((cleaned[label] == mask).all() for label, mask in masks.items())


def test_the_truth_of_a_phantom_is_left_as_it_is(class_set: ClassSet) -> None:
    phantom = make_phantom(3, spacing=(6.0, 6.0, 6.0))
    organs = {label: phantom.label == label for label in range(1, 33) if (phantom.label == label).any()}
    tumors = {label: mask for label, mask in organs.items() if class_set.wholes[label]}
    for tumor, mask in tumors.items():  # organs include their tumours
        for whole in class_set.wholes[tumor] & organs.keys():
            if len(class_set.wholes[tumor]) == 1:
                organs[whole] = organs[whole] | mask
    cleaned = PostProcessing(class_set)(organs, phantom.affine)
    changed = {class_set[label].name for label, mask in organs.items() if (mask != cleaned[label]).any()}
    assert changed <= {"intestine"}, "its loops come apart at 6 mm"


def test_all_masks_of_a_segmentation_are_cleaned(class_set: ClassSet) -> None:
    """Of pancreas, vein and spleen."""
    spleen = blocks(((5, 10), (5, 10), (5, 10)), ((30, 32), (30, 32), (25, 27)))
    vein, pancreas = blocks(((15, 25), (12, 14), (4, 30))), blocks(((12, 20), (10, 14), (9, 12)))
    masks = {SPLEEN: spleen, PORTAL: vein, PANCREAS: pancreas}
    given = Segmentation.of(masks, np.diag([1.5, 1.5, 1.5, 1.0]))
    result = PostProcessd("pred", class_set)({"pred": given})["pred"]
    assert isinstance(result, Segmentation) and result.labels == (SPLEEN, PORTAL, PANCREAS)
    assert [int(result.mask(label).sum()) for label in result.labels] == [125, 10 * 2 * 21, 8 * 4 * 3]
    for label, mask in masks.items():
        np.testing.assert_array_equal(given.mask(label), mask, "the item given must stay as it is")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("spleen", ("largest",)),
        ("spleen", ("largest component", "liver")),
        ("portal vein and splenic vein", ("not below",)),
        ("portal vein and splenic vein", ("not below", "knee")),
        ("right lung", ("split from", "liver")),
        ("spleen", ("inside its organs",)),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(class_set: ClassSet, name: str, rule: tuple[str, ...]) -> None:
    classes = tuple(replace(item, cleanup=rule) if item.name == name else item for item in class_set)
    with pytest.raises(ValueError, match=f"`cleanup` of '{name}' must .*{rule[0]}"):
        PostProcessing(replace(class_set, classes=classes))
