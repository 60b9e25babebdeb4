"""Where windows lie in a volume, and how their logits become those of whole planes, a slab at a time."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices

from custom.utils.memory import check_available

Window = tuple[slice, slice, slice]

#: Logit of a voxel that no window answered: a probability of 1e-13.
ABSENT = -30.0


class Slab(NamedTuple):
    """Planes of a volume that are finished.

    Args:
        start: number of the first plane along the layout's axis. The planes of two slabs that follow each other overlap
            by one, so that what lies between planes can be interpolated.
        logits: (n, H, W, D), its extent along the axis that of the slab; a view, valid until the next slab.
        axis: along which slabs follow each other, 0 to 2.
    """

    start: int
    logits: torch.Tensor
    axis: int

    @property
    def fresh(self) -> torch.Tensor:
        """The planes that the slab before did not have."""
        known = int(self.start > 0)
        return self.logits.narrow(self.axis + 1, known, self.logits.shape[self.axis + 1] - known)


def slab_axis(shape: Sequence[int]) -> int:
    """The axis of a volume (H, W, D) along which it is answered slab by slab: the longer of the two last.

    Little has to be held at once then, and an image and its left-right mirror image have the same slabs.
    """
    return 1 if shape[1] > shape[2] else 2


class WindowGrid:
    """Overlapping windows over a volume, as MONAI's ``sliding_window_inference`` lays them, row by row.

    Rows follow each other along ``slab_axis``.

    Args:
        shape: (H, W, D) of the volume.
        roi_size: a window's.
        overlap: of neighbouring windows, in [0, 1).
    """

    def __init__(self, shape: Sequence[int], roi_size: Sequence[int], overlap: float) -> None:
        self.shape = tuple(shape)
        self.roi_size = tuple(roi_size)
        self.padded = tuple(max(pair) for pair in zip(shape, roi_size, strict=True))
        self.before = tuple((padded - side) // 2 for padded, side in zip(self.padded, shape, strict=True))
        self.axis = slab_axis(shape)
        steps = tuple(max(int(roi * (1 - overlap)), 1) for roi in roi_size)
        places = sorted(dense_patch_slices(self.padded, self.roi_size, steps), key=self._start)
        self.rows: list[tuple[int, list[Window]]] = [
            (start, list(row)) for start, row in itertools.groupby(places, self._start)
        ]

    def __len__(self) -> int:
        return sum(len(row) for _, row in self.rows)

    def _start(self, place: Window) -> int:
        return int(place[self.axis].start)

    def pad(self, image: torch.Tensor) -> torch.Tensor:
        """A volume (1, C, H, W, D), where it is smaller than a window in the middle of zeros."""
        if self.padded == self.shape:
            return image
        margins = [
            (before, padded - side - before)
            for before, padded, side in zip(self.before, self.padded, self.shape, strict=True)
        ]
        return torch.nn.functional.pad(image, [side for pair in reversed(margins) for side in pair])


class LogitsBuffer:
    """The logits of the planes that windows still reach.

    Args:
        layout: where the windows lie.
        channels: n.
        mode: "constant" or "gaussian": how the logits of windows that overlap are weighted.
        device: where they are held.
    """

    def __init__(self, layout: WindowGrid, channels: int, *, mode: str, device: torch.device) -> None:
        self.layout = layout
        depth = layout.roi_size[layout.axis] + 1  # the plane before is kept
        size = [depth if axis == layout.axis else side for axis, side in enumerate(layout.padded)]
        self.first = -1  # which plane the first is
        if device.type == "cpu":
            check_available(4 * (channels + 1) * math.prod(size), f"the logits of {channels} classes")
        self.sums = torch.zeros(channels, *size, device=device)
        self.weights = torch.zeros(size, device=device)
        self.importance = (
            None if mode == "constant" else compute_importance_map(layout.roi_size, mode=mode, device=device)
        )

    def leave_gpu(self) -> bool:
        """Move to main memory; False if it is there already."""
        if self.sums.device.type == "cpu":
            return False
        self.sums, self.weights = self.sums.cpu(), self.weights.cpu()
        self.importance = None if self.importance is None else self.importance.cpu()
        return True

    def add(self, place: Window, parts: Sequence[torch.Tensor], channels: Sequence[list[int] | slice]) -> None:
        """Add the logits (n, h, w, d) of a window, in parts, each with the channels that it is of."""
        axis = self.layout.axis
        here = tuple(
            slice(side.start - self.first, side.stop - self.first) if i == axis else side
            for i, side in enumerate(place)
        )
        self.weights[here] += 1 if self.importance is None else self.importance
        for own, part in zip(channels, parts, strict=True):
            logits = part.to(self.sums.device, self.sums.dtype)
            self.sums[(own, *here)] += logits if self.importance is None else logits * self.importance

    def finish(self, until: int) -> Iterator[Slab]:
        """Yield the planes before plane ``until`` (padded), which no further window reaches, and forget them."""
        axis, layout = self.layout.axis, self.layout
        fresh = until - (self.first + 1)
        sums, weights = self.sums.narrow(axis + 1, 1, fresh), self.weights.narrow(axis, 1, fresh)
        sums /= weights.clamp(min=1e-6)
        sums.masked_fill_(weights == 0, ABSENT)
        before = layout.before[axis]
        start, stop = max(self.first, before, 0), min(until, before + layout.shape[axis])
        if stop > start:
            inside = [slice(before, before + side) for before, side in zip(layout.before, layout.shape, strict=True)]
            inside[axis] = slice(start - self.first, stop - self.first)
            yield Slab(start - before, self.sums[(slice(None), *inside)], axis)
        kept = self.sums.shape[axis + 1] - fresh
        for tensor, along in ((self.sums, axis + 1), (self.weights, axis)):
            rest = tensor.narrow(along, fresh, kept).clone()
            tensor.zero_()
            tensor.narrow(along, 0, kept).copy_(rest)
        self.first = until - 1
