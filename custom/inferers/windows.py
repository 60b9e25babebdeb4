"""Windows over a volume, and the sum of their logits, slab by slab."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices

from custom.utils.memory import check_available

Window = tuple[slice, slice, slice]

#: Logit of voxels in skipped windows: a probability of 1e-13.
ABSENT = -30.0


class Slab(NamedTuple):
    """Finished planes of a volume.

    Consecutive slabs share one plane, so that values between planes can be interpolated.
    """

    start: int  # index of the first plane along ``axis``
    logits: torch.Tensor  # (n, H, W, D), cut along ``axis``; a view, valid until the next slab
    axis: int  # along which slabs follow each other, 0 to 2

    @property
    def fresh(self) -> torch.Tensor:
        """The planes that the previous slab did not have."""
        shared = int(self.start > 0)
        return self.logits.narrow(self.axis + 1, shared, self.logits.shape[self.axis + 1] - shared)


def slab_axis(shape: Sequence[int]) -> int:
    """The axis along which a volume (H, W, D) is cut into slabs: the longer of the last two, which saves memory.

    It is never H, so that an image and its left-right mirror image have the same slabs.
    """
    return 1 if shape[1] > shape[2] else 2


class WindowGrid:
    """Overlapping windows over a volume, placed as by MONAI's ``sliding_window_inference``.

    ``shape`` of the volume and ``roi_size`` of a window are (H, W, D) in voxels, ``overlap`` is in [0, 1). ``rows`` has
    the windows by their start along ``slab_axis``, each row with the plane at which the next row starts.
    """

    def __init__(self, shape: Sequence[int], roi_size: Sequence[int], overlap: float) -> None:
        self.shape = tuple(shape)
        self.roi_size = tuple(roi_size)
        self.padded = tuple(max(pair) for pair in zip(shape, roi_size, strict=True))
        self.before = tuple((padded - side) // 2 for padded, side in zip(self.padded, shape, strict=True))
        axis = self.axis = slab_axis(shape)
        steps = tuple(max(int(roi * (1 - overlap)), 1) for roi in roi_size)
        windows = sorted(dense_patch_slices(self.padded, self.roi_size, steps), key=lambda window: window[axis].start)
        rows = [list(row) for _, row in itertools.groupby(windows, lambda window: window[axis].start)]
        ends = [row[0][axis].start for row in rows[1:]] + [self.padded[axis]]
        self.rows: list[tuple[list[Window], int]] = list(zip(rows, ends, strict=True))

    def __len__(self) -> int:
        return sum(len(row) for row, _ in self.rows)

    def pad(self, image: torch.Tensor) -> torch.Tensor:
        """A volume (1, C, H, W, D), centred in zeros where it is smaller than a window."""
        if self.padded == self.shape:
            return image
        sides = reversed(list(zip(self.before, self.padded, self.shape, strict=True)))
        margins = [margin for before, padded, side in sides for margin in (before, padded - side - before)]
        return torch.nn.functional.pad(image, margins)


class LogitsBuffer:
    """Weighted sums of logits of n channels in the planes that further windows may cover.

    It raises ``NotEnoughMemory`` where main memory is short.
    """

    def __init__(self, grid: WindowGrid, channels: int, *, mode: str, device: torch.device) -> None:
        self.grid = grid
        depth = grid.roi_size[grid.axis] + 1  # one more for the plane that consecutive slabs share
        size = [depth if axis == grid.axis else side for axis, side in enumerate(grid.padded)]
        self.first = -1  # plane of the padded volume at index 0
        if device.type == "cpu":
            check_available(4 * (channels + 1) * math.prod(size), f"the logits of {channels} classes")
        self.sums = torch.zeros(channels, *size, device=device)
        self.weights = torch.zeros(size, device=device)
        self.importance = compute_importance_map(grid.roi_size, mode=mode, device=device)

    def move_to_cpu(self) -> bool:
        """Move to main memory; False if already there."""
        if self.sums.device.type == "cpu":
            return False
        self.sums, self.weights, self.importance = self.sums.cpu(), self.weights.cpu(), self.importance.cpu()
        return True

    def add(self, window: Window, parts: Sequence[torch.Tensor], channels: Sequence[list[int] | slice]) -> None:
        """Add logits (n, h, w, d) of a window, given in parts with the channels of each."""
        region = list(window)
        along = window[self.grid.axis]
        region[self.grid.axis] = slice(along.start - self.first, along.stop - self.first)
        self.weights[tuple(region)] += self.importance
        for own, part in zip(channels, parts, strict=True):
            self.sums[(own, *region)] += part.to(self.sums) * self.importance

    def finish(self, end: int) -> Iterator[Slab]:
        """Yield the planes before ``end`` (in the padded volume), which no further window covers, and drop them."""
        axis, grid = self.grid.axis, self.grid
        fresh = end - (self.first + 1)
        sums, weights = self.sums.narrow(axis + 1, 1, fresh), self.weights.narrow(axis, 1, fresh)
        sums /= weights.clamp(min=1e-6)
        sums.masked_fill_(weights == 0, ABSENT)
        before = grid.before[axis]
        start, stop = max(self.first, before, 0), min(end, before + grid.shape[axis])
        if stop > start:
            inside = [slice(before, before + side) for before, side in zip(grid.before, grid.shape, strict=True)]
            inside[axis] = slice(start - self.first, stop - self.first)
            yield Slab(start - before, self.sums[(slice(None), *inside)], axis)
        remaining = self.sums.shape[axis + 1] - fresh
        for tensor, dim in ((self.sums, axis + 1), (self.weights, axis)):
            moved = tensor.narrow(dim, fresh, remaining).clone()
            tensor.zero_()
            tensor.narrow(dim, 0, remaining).copy_(moved)
        self.first = end - 1
