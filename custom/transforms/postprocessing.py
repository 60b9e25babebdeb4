"""Anatomical clean-up of masks: one component of a single organ, tumours in their organ, each lung on its side.

The rule of a class is its ``cleanup`` in the class set's JSON file, with the class that it refers to:

- "largest component": keep the largest component;
- "not below", X: remove everything below the lowest slice of X;
- "split from", X, of the other side: of both together, remove components of less than a tenth of the largest; if the
  two largest belong mainly to different classes, assign every part to the class on its side of the plane halfway
  between them;
- "inside its organs": keep what is inside the classes that it is part of, closed and dilated by 5 x 5 x 5 voxels of
  the class set's spacing (3 mm to every side at 1.5 mm).

A rule is applied only if all classes that it needs were requested.
"""

from collections.abc import Hashable, Iterator, Mapping
from functools import partial
from typing import Any

import cc3d
import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy import ndimage

from custom.anatomy.class_set import ClassSet
from custom.utils.masks import Mask, bounding_box, largest_component

#: Rules in order of application, and how many classes the class set names after each.
RULES = {"split from": 1, "largest component": 0, "not below": 1, "inside its organs": 0}
NOISE = 0.1  #: components of a right and a left organ below this fraction of the largest are noise


class PostProcessing:
    """Apply the clean-up rules of a class set to the masks of one volume.

    Raises:
        ValueError: an unknown rule, or one that does not fit its class.
    """

    def __init__(self, class_set: ClassSet) -> None:
        self.class_set = class_set
        self.rules: list[tuple[str, int, frozenset[int]]] = []  # rule, label, labels that it needs
        for item in class_set:
            if not item.cleanup:
                continue
            rule, *names = item.cleanup
            others = frozenset(other.index for other in class_set if other.name in names)
            if rule == "inside its organs":
                others = class_set.wholes[item.index]
            sides = {class_set[label].side for label in (item.index, *others)}
            apart = rule != "split from" or sides == {"left", "right"}
            if RULES.get(rule) != len(names) or not (others or rule == "largest component") or not apart:
                raise ValueError(
                    f"`cleanup` of {item.name!r} must be 'largest component'; 'not below' and a class; 'split from' "
                    f"and the class of the other side; or 'inside its organs', with `part_of`; not {item.cleanup!r}."
                )
            self.rules.append((rule, item.index, others))
        self.rules.sort(key=lambda entry: list(RULES).index(entry[0]))

    def __call__(self, masks: Mapping[int, Mask], affine: npt.NDArray[np.float64]) -> dict[int, Mask]:
        """Cleaned masks (H, W, D) by label, from those of all requested classes, which are not changed.

        ``affine`` (4, 4) is from voxels to world, RAS+ in mm, in any orientation.
        """
        cleaned = dict(masks)
        for changed in self.steps(cleaned, affine):
            cleaned |= changed
        return cleaned

    def steps(self, masks: Mapping[int, Mask], affine: npt.NDArray[np.float64]) -> Iterator[dict[int, Mask]]:
        """Yield the masks that each rule changes; the caller updates ``masks`` with them before the next rule.

        Arguments are those of ``__call__``. Masks are read when a rule needs them.
        """
        to_ras = nib.io_orientation(affine)
        in_ras = partial(nib.apply_orientation, ornt=to_ras)
        back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), to_ras)
        spacing = nib.affines.voxel_sizes(affine)[np.argsort(to_ras[:, 0])]
        reach = np.maximum(np.round(2 * np.asarray(self.class_set.spacing) / spacing), 1).astype(int)
        for rule, label, others in self.rules:
            if not masks.keys() >= {label, *others}:
                continue
            changed: dict[int, Mask] = {}
            mask: Mask = in_ras(masks[label])
            if rule == "largest component":
                changed[label] = largest_component(mask)
            elif rule == "split from":
                right, left = sorted((label, *others), key=lambda index: self.class_set[index].side != "right")
                changed[right], changed[left] = _split(in_ras(masks[right]), in_ras(masks[left]))
            elif rule == "not below":
                heights = np.flatnonzero(in_ras(masks[min(others)]).any((0, 1)))
                if len(heights):
                    changed[label] = mask.copy()
                    changed[label][..., : heights[0]] = False
            elif mask.any():
                organs = np.any([in_ras(masks[other]) for other in others], axis=0)
                changed[label] = mask & _close_and_dilate(organs, reach)
            yield {index: nib.apply_orientation(mask, back) for index, mask in changed.items()}


class PostProcessd(MapTransform):
    """``PostProcessing`` of a ``Segmentation`` by the rules of its class set."""

    def __init__(self, keys: KeysCollection, class_set: ClassSet) -> None:
        super().__init__(keys)
        self.clean = PostProcessing(class_set)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            segmentation = result[key].copy()
            for changed in self.clean.steps(segmentation.masks(), segmentation.affine):
                segmentation.put(changed)
            result[key] = segmentation
        return result


def _split(right: Mask, left: Mask) -> tuple[Mask, Mask]:
    """Masks in RAS without noise and, if both organs were found apart, each with all parts on its side."""
    if not (right | left).any():
        return right, left
    box = bounding_box(right | left)
    sides = right[box] + 2 * left[box].astype(np.uint8)  # 3: both
    components = cc3d.connected_components(sides > 0)
    statistics = cc3d.statistics(components)
    sizes = statistics["voxel_counts"]
    sizes[0] = 0  # background
    sides[sizes[components] < NOISE * sizes.max()] = 0
    first, second = np.argsort(sizes)[-2:] if len(sizes) > 2 else (0, 0)
    mainly_right = np.bincount(components[sides == 1], minlength=len(sizes)) > sizes / 2
    cleaned = np.zeros_like(right), np.zeros_like(left)
    if first != second and sizes[first] >= NOISE * sizes.max() and mainly_right[first] != mainly_right[second]:
        middle = statistics["centroids"][[first, second], 0].mean()
        parts = cc3d.connected_components(sides)
        on_the_right = (cc3d.statistics(parts)["centroids"][:, 0] > middle)[parts]
        sides = np.where(on_the_right, 1, 2) * (sides > 0)
    for side, mask in enumerate(cleaned, start=1):
        mask[box] = sides & side > 0
    return cleaned


def _close_and_dilate(organ: Mask, reach: npt.NDArray[np.int_]) -> Mask:
    """An organ (H, W, D) closed and then dilated by a box of ``reach`` voxels to every side."""
    result = np.zeros_like(organ)
    if organ.any():
        box, size = bounding_box(organ, margin=3 * int(reach.max())), tuple(2 * reach + 1)
        closed = ndimage.grey_closing(organ[box].astype(np.uint8), size=size)
        result[box] = ndimage.grey_dilation(closed, size=size) > 0
    return result
