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

from collections.abc import Hashable, Mapping
from typing import Any

import cc3d
import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, generate_spatial_bounding_box
from scipy import ndimage

from custom.anatomy import ClassSet

Mask = npt.NDArray[np.bool_]

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
        to_ras = nib.io_orientation(affine)
        turned = {label: nib.apply_orientation(mask, to_ras) for label, mask in masks.items()}
        spacing = nib.affines.voxel_sizes(affine)[np.argsort(to_ras[:, 0])]
        reach = np.maximum(np.round(2 * np.asarray(self.class_set.spacing) / spacing), 1).astype(int)
        for rule, label, others in self.rules:
            if not masks.keys() >= {label, *others}:
                continue
            mask = turned[label]
            if rule == "largest component":
                turned[label] = largest_component(mask)
            elif rule == "split from":
                right, left = sorted((label, *others), key=lambda index: self.class_set[index].side != "right")
                turned[right], turned[left] = _split(turned[right], turned[left])
            elif rule == "not below":
                heights = np.flatnonzero(turned[min(others)].any((0, 1)))
                if len(heights):
                    turned[label] = mask.copy()
                    turned[label][..., : heights[0]] = False
            elif mask.any():
                turned[label] = mask & _closed_and_dilated(np.any([turned[other] for other in others], axis=0), reach)
        back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), to_ras)
        return {label: nib.apply_orientation(mask, back) for label, mask in turned.items()}


class PostProcessd(MapTransform):
    """``PostProcessing`` of the answered channels of an image.

    Args:
        keys: the channels (n, H, W, D), 0 or 1, in the order of the class set, of the classes that ``named`` (P, K) of
            the item asks for.
        class_set: what the channels mean, and their rules.
    """

    def __init__(self, keys: KeysCollection, class_set: ClassSet) -> None:
        super().__init__(keys)
        self.clean = PostProcessing(class_set)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            prediction = result[key]
            labels = [int(channel) + 1 for channel in result["named"].any(0).nonzero()]
            masks = {label: np.asarray(prediction[i].cpu()) > 0.5 for i, label in enumerate(labels)}
            cleaned = self.clean(masks, np.asarray(prediction.affine, np.float64))
            result[key] = prediction.clone()
            for i, label in enumerate(labels):
                result[key][i] = torch.as_tensor(np.ascontiguousarray(cleaned[label])).to(prediction)
        return result


def bounding_box(mask: Mask, margin: int = 0) -> tuple[slice, ...]:
    """The box around a mask (H, W, D), so many voxels wider where the volume goes on; empty of an empty mask."""
    if not mask.any():
        return (slice(0, 0),) * mask.ndim
    box = generate_spatial_bounding_box(mask[None], margin=margin, allow_smaller=True)
    return tuple(slice(int(start), int(stop)) for start, stop in zip(*box, strict=True))


def largest_component(mask: Mask) -> Mask:
    """The largest 26-connected piece of a mask (H, W, D)."""
    box = bounding_box(mask)
    result = np.zeros_like(mask)
    if mask.any():
        result[box] = cc3d.largest_k(mask[box], k=1, binary_image=True) > 0
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
