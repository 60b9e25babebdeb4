"""Linear interpolation with little memory, axis by axis, between grids with parallel axes.

The working grid of a network (RAS, fixed spacing) and the grid of its image differ in the order, direction, spacing and
origin of their axes, whatever the orientation of the image. Trilinear interpolation is then linear interpolation along
one axis after the other: it needs no coordinates of every voxel, and any part can be computed alone.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import compute_shape_offset, zoom_affine
from monai.transforms import MapTransform

PLANES = 64  #: that ``LinearSpacingd`` interpolates at a time


class Line(NamedTuple):
    """Positions of the n voxels of one axis on the parallel axis ``source`` of another grid.

    A voxel lies between the indices ``low`` and ``high`` (n,) of the other grid, whose values have the weights
    ``low_weight`` and ``high_weight`` (n,); these are 0 outside the other grid if values there are 0.
    """

    source: int
    low: torch.Tensor
    high: torch.Tensor
    low_weight: torch.Tensor
    high_weight: torch.Tensor

    def part(self, voxels: slice) -> "Line":
        """The line of some of the voxels."""
        return Line(self.source, *(values[voxels] for values in self[1:]))

    def touching(self, first: int, last: int) -> slice:
        """The voxels that depend on the indices ``first`` to ``last``, both included."""
        low = (self.low >= first) & (self.low <= last) & (self.low_weight > 0)
        high = (self.high >= first) & (self.high <= last) & (self.high_weight > 0)
        found = (low | high).nonzero().flatten()
        return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)

    def shifted(self, by: int) -> "Line":
        """The same line on a grid that begins ``by`` indices later."""
        return self._replace(low=self.low - by, high=self.high - by)


def find_lines(
    shape: Sequence[int],
    affine: npt.NDArray[np.floating[Any]],
    *,
    from_shape: Sequence[int],
    from_affine: npt.NDArray[np.floating[Any]],
    nothing: Sequence[tuple[bool, bool]] = ((False, False),) * 3,
) -> list[Line]:
    """Positions of the voxels of each axis of a grid on another grid.

    Shapes are (H, W, D), affines from voxel indices to mm. ``nothing`` says for both ends of each axis of the other
    grid whether values beyond are 0; else that of the end is repeated.

    Raises:
        ValueError: axes that are not parallel.
    """
    between = np.linalg.inv(np.asarray(from_affine, float)) @ np.asarray(affine, float)
    sources = np.abs(between[:3, :3]).argmax(0)
    rest = between[:3, :3].copy()
    rest[sources, range(3)] = 0
    drift = np.abs(rest) @ np.maximum(np.array(shape) - 1, 0)
    if sorted(sources) != [0, 1, 2] or drift.max() > 0.15:
        raise ValueError(
            "Two grids must have parallel axes, in any order and direction; the matrix between these is "
            f"{between[:3, :3].round(4).tolist()}."
        )
    lines = []
    for axis, source in enumerate(map(int, sources)):
        last = from_shape[source] - 1
        positions = between[source, axis] * np.arange(shape[axis]) + between[source, 3]
        nearest = positions.round()
        positions = np.where(np.abs(positions - nearest) < 1e-4, nearest, positions)
        low = np.floor(positions)
        fraction = positions - low
        weights = []
        for index, weight in ((low, 1 - fraction), (low + 1, fraction)):
            outside = ((index < 0) & nothing[source][0]) | ((index > last) & nothing[source][1])
            weights.append(torch.from_numpy(np.where(outside, 0.0, weight).astype(np.float32)))
        indices = [torch.from_numpy(np.clip(index, 0, last).astype(np.int64)) for index in (low, low + 1)]
        lines.append(Line(source, *indices, *weights))
    return lines


def interpolate(values: torch.Tensor, lines: Sequence[Line]) -> torch.Tensor:
    """Values (H, W, D) at the voxels of three lines, (H', W', D')."""
    for line in sorted(lines, key=lambda line: len(line.low) / values.shape[line.source]):  # shrinking axes first
        low, high, *weights = (part.to(values.device) for part in line[1:])
        along = [1, 1, 1]
        along[line.source] = -1
        result = values.index_select(line.source, low).mul_(weights[0].view(along))
        values = result.addcmul_(values.index_select(line.source, high), weights[1].view(along))
    return values.permute([line.source for line in lines])


class LinearSpacingd(MapTransform):
    """Linear interpolation as by MONAI's ``Spacingd``, but axis by axis in single precision.

    MONAI's takes some forty bytes per voxel, for double precision and the coordinates of every voxel; this takes four.
    Values differ by rounding only. It has no inverse: ``custom.inferers.SegmentingInferer`` resamples back by itself.
    ``pixdim`` is the target spacing (H, W, D), mm, of images (C, H, W, D).

    Raises:
        ValueError: axes that are not at right angles.
    """

    def __init__(self, keys: KeysCollection, pixdim: Sequence[float]) -> None:
        super().__init__(keys)
        self.pixdim = np.asarray(pixdim, float)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self._resample(result[key])
        return result

    def _resample(self, image: MetaTensor) -> MetaTensor:
        affine = np.asarray(image.affine, np.float64)
        new_affine = zoom_affine(affine, self.pixdim, diagonal=False)
        shape, offset = compute_shape_offset(image.shape[1:], affine, new_affine)
        new_affine[:3, 3] = offset
        try:
            lines = find_lines(shape, new_affine, from_shape=image.shape[1:], from_affine=affine)
        except ValueError as error:
            source = image.meta.get("filename_or_obj", "this image")
            raise ValueError(
                f"The axes of an image must be at right angles; those of {source} are not, as of a tilted gantry. "
                "Resample it to a straight grid first."
            ) from error
        values = image.as_tensor()
        resampled = values.new_empty((values.shape[0], *(len(line.low) for line in lines)), dtype=torch.float32)
        for start in range(0, resampled.shape[-1], PLANES):  # the axes keep their order
            part = lines[2].part(slice(start, start + PLANES))
            low, high = int(part.low.min()), int(part.high.max())
            for target, channel in zip(resampled, values[..., low : high + 1], strict=True):
                planes = interpolate(channel.float(), [*lines[:2], part.shifted(low)])
                target[..., start : start + PLANES] = planes
        meta = {key: value for key, value in image.meta.items() if key != "affine"}
        return MetaTensor(resampled, affine=torch.as_tensor(new_affine), meta=meta)
