"""The segmentation of one image: overlapping masks of one bit per voxel."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Masks of n classes on one grid."""

    labels: tuple[int, ...]  # the classes (1-based), ascending
    bits: npt.NDArray[np.uint8]  # (ceil(n / 8), H, W, D): mask i is bit i % 8 of plane i // 8
    affine: npt.NDArray[np.float64]  # from voxel indices to mm (RAS)
    probability: Mapping[int, float | None]  # mean of each class over its mask; None if the mask is empty
    entropy: npt.NDArray[np.uint8] | None = None  # (H, W, D), the highest binary entropy of any class, 255 for 1 bit

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, D)."""
        return self.bits.shape[1:]

    def mask(self, label: int) -> Mask:
        """The mask (H, W, D) of a class."""
        plane, bit = divmod(self.labels.index(label), 8)
        mask: Mask = self.bits[plane] & np.uint8(1 << bit) != 0
        return mask

    def masks(self) -> "Masks":
        """All masks by class, each unpacked when it is looked up."""
        return Masks(self)

    def put(self, masks: Mapping[int, Mask]) -> None:
        """Replace the masks of some classes."""
        for label, mask in masks.items():
            plane, bit = divmod(self.labels.index(label), 8)
            self.bits[plane] &= np.uint8(255 - (1 << bit))
            self.bits[plane] |= mask.astype(np.uint8) << np.uint8(bit)

    def copy(self) -> "Segmentation":
        """A copy with its own masks."""
        return replace(self, bits=self.bits.copy())

    @classmethod
    def of(cls, masks: Mapping[int, Mask], affine: npt.NDArray[Any]) -> "Segmentation":
        """From masks (H, W, D) by class."""
        labels = tuple(sorted(masks))
        bits = np.zeros((-(-len(labels) // 8), *next(iter(masks.values())).shape), np.uint8)
        segmentation = cls(labels, bits, np.asarray(affine, np.float64), dict.fromkeys(labels))
        segmentation.put(masks)
        return segmentation


class Masks(Mapping[int, Mask]):
    """The masks of a segmentation by class, unpacked at each look-up and not kept."""

    def __init__(self, segmentation: Segmentation) -> None:
        self.segmentation = segmentation

    def __len__(self) -> int:
        return len(self.segmentation.labels)

    def __iter__(self) -> Iterator[int]:
        return iter(self.segmentation.labels)

    def __getitem__(self, label: int) -> Mask:
        if label not in self.segmentation.labels:
            raise KeyError(label)
        return self.segmentation.mask(label)
