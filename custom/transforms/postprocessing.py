"""Masks as anatomy has them: one piece of a single organ, tumours in their organ, each lung on its side.

The rules of a class are its ``cleanup`` in the class set's JSON file, by name, with the class they refer to:

- "largest component": its largest piece;
- "not below", X: nothing below the lowest slice of X;
- "split from", X, of the other side: of both together, pieces of less than a tenth of the largest are dropped; where
  the two largest are mainly the one and the other, each part goes to the class on whose side it lies of the plane
  halfway between them;
- "inside its organs": what lies in the classes that it is part of, closed and dilated by 5 x 5 x 5 voxels of the class
  set's spacing (3 mm to every side, of 1.5 mm).

A rule is applied only where all the classes that it needs were asked for.
"""

from collections.abc import Hashable, Iterator, Mapping
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

#: Rules, in the order in which they are applied, and whether each refers to another class.
RULES = {"split from": True, "largest component": False, "not below": True, "inside its organs": False}

#: Pieces of a right and a left organ that have a smaller share of the largest piece are noise.
NOISE = 0.1


class PostProcessing:
    """Apply the clean-up rules of a class set to the masks of one volume.

    Raises:
        ValueError: a rule that does not exist, or that refers to what it cannot.
    """

    def __init__(self, class_set: ClassSet) -> None:
        self.class_set = class_set
        self.rules: list[tuple[str, int, frozenset[int]]] = []  # rule, label, labels that it needs
        for item in class_set:
            if not item.cleanup:
                continue
            rule, *names = item.cleanup
            if rule not in RULES or len(names) != RULES[rule] or not set(names) <= set(class_set.names):
                raise ValueError(
                    f"`cleanup` of {item.name!r} must be one of {list(RULES)}, followed by a class of the class set "
                    f"where it is one of {[name for name, refers in RULES.items() if refers]}, not {item.cleanup!r}."
                )
            others = frozenset(class_set.index(name) for name in names)
            if rule == "inside its organs":
                others = class_set.wholes[item.index]
            sides = {class_set[label].side for label in (item.index, *others)}
            if (rule == "split from" and sides != {"left", "right"}) or (rule == "inside its organs" and not others):
                raise ValueError(
                    f"`cleanup` of {item.name!r} must fit the class: 'split from' names its counterpart of the other "
                    f"side, 'inside its organs' needs `part_of`; received {item.cleanup!r}."
                )
            self.rules.append((rule, item.index, others))
        self.rules.sort(key=lambda entry: list(RULES).index(entry[0]))

    def __call__(self, masks: Mapping[int, Mask], affine: npt.NDArray[np.float64]) -> dict[int, Mask]:
        """Masks (H, W, D) by label, cleaned; those given are not changed.

        Args:
            masks: what was found of every class asked for.
            affine: voxel to world (4, 4), RAS+ in mm; any orientation.
        """
        cleaned = dict(masks)
        for changed in self.steps(cleaned, affine):
            cleaned |= changed
        return cleaned

    def steps(self, masks: Mapping[int, Mask], affine: npt.NDArray[np.float64]) -> Iterator[dict[int, Mask]]:
        """Yield what each rule changes; whoever asks puts it into ``masks`` before asking for the next.

        Arguments are those of ``__call__``. Masks are looked up when a rule needs them.
        """
        to_ras = nib.io_orientation(affine)
        back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), to_ras)
        spacing = nib.affines.voxel_sizes(affine)[np.argsort(to_ras[:, 0])]
        reach = np.maximum(np.round(2 * np.asarray(self.class_set.spacing) / spacing), 1).astype(int)

        def turned(wanted: int) -> Mask:
            mask: Mask = nib.apply_orientation(masks[wanted], to_ras)
            return mask

        for rule, label, others in self.rules:
            if not masks.keys() >= {label, *others}:
                continue
            changed: dict[int, Mask] = {}
            if rule == "largest component":
                changed[label] = largest_component(turned(label))
            elif rule == "split from":
                right, left = sorted((label, *others), key=lambda index: self.class_set[index].side != "right")
                changed[right], changed[left] = _split(turned(right), turned(left))
            elif rule == "not below":
                heights = np.flatnonzero(turned(min(others)).any((0, 1)))
                if len(heights):
                    changed[label] = turned(label).copy()
                    changed[label][..., : heights[0]] = False
            else:
                mask = turned(label)
                if mask.any():
                    whole = np.any([turned(other) for other in others], axis=0)
                    changed[label] = mask & _closed_and_dilated(whole, reach)
            yield {index: nib.apply_orientation(mask, back) for index, mask in changed.items()}


class PostProcessd(MapTransform):
    """``PostProcessing`` of what was found in an image.

    Args:
        keys: a ``Segmentation``.
        class_set: what its classes are, and their rules.
    """

    def __init__(self, keys: KeysCollection, class_set: ClassSet) -> None:
        super().__init__(keys)
        self.clean = PostProcessing(class_set)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            found = result[key].copy()
            for changed in self.clean.steps(found.masks(), found.affine):
                found.put(changed)
            result[key] = found
        return result


def _split(right: Mask, left: Mask) -> tuple[Mask, Mask]:
    """Masks in RAS without their noise, and without parts of the other side's organ where the two are apart."""
    if not (right | left).any():
        return right, left
    box = bounding_box(right | left)
    sides = right[box] + 2 * left[box].astype(np.uint8)  # 3: both
    pieces = cc3d.connected_components(sides > 0)
    statistics = cc3d.statistics(pieces)
    sizes = statistics["voxel_counts"]
    sizes[0] = 0  # background
    sides[sizes[pieces] < NOISE * sizes.max()] = 0
    first, second = np.argsort(sizes)[-2:] if len(sizes) > 2 else (0, 0)
    mainly_right = np.bincount(pieces[sides == 1], minlength=len(sizes)) > sizes / 2
    found = np.zeros_like(right), np.zeros_like(left)
    if first != second and sizes[first] >= NOISE * sizes.max() and mainly_right[first] != mainly_right[second]:
        middle = statistics["centroids"][[first, second], 0].mean()
        parts = cc3d.connected_components(sides)
        on_the_right = (cc3d.statistics(parts)["centroids"][:, 0] > middle)[parts]
        sides = np.where(on_the_right, 1, 2) * (sides > 0)
    for side, mask in enumerate(found, start=1):
        mask[box] = sides & side > 0
    return found


def _closed_and_dilated(organ: Mask, reach: npt.NDArray[np.int_]) -> Mask:
    """An organ (H, W, D) closed and then dilated by a box that reaches so many voxels to every side."""
    box = bounding_box(organ, margin=3 * int(reach.max()))
    result = np.zeros_like(organ)
    if organ.any():
        size = tuple(2 * reach + 1)
        closed = ndimage.grey_closing(organ[box].astype(np.uint8), size=size)
        result[box] = ndimage.grey_dilation(closed, size=size) > 0
    return result
