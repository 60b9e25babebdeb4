"""The polygons of a mask's slice that hold exactly its pixels' centres."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from contourpy import FillType, contour_generator

Points = npt.NDArray[np.float64]

#: Polygons cross between the centres of a pixel inside and one outside at 0.49 of the way: programs that round points
#: to pixels and count those inside, as OpenCV does, find the mask too, which halfway they would not.
LEVEL = 0.51

#: Points lie on a grid of so many steps a pixel, so that they are compared exactly.
_STEPS = 100

Grid = npt.NDArray[np.int64]


def polygons(section: npt.NDArray[np.bool_]) -> list[Points]:
    """Polygons (n, 2), as (column, row) in pixels, whose inside holds the centres of the mask's pixels and no other.

    They run between the centres of pixels inside and outside (marching squares), so a single pixel is a polygon too,
    and large structures keep their area. A hole is part of the polygon around it, joined to it by a channel without
    width that is walked to and fro (the keyhole of DICOM PS3.3 C.8.8.6.3): neither the even-odd nor the winding rule
    sees the channel, and none of the mask's pixels is lost to it.

    Args:
        section: a mask (rows, columns).
    """
    rows, columns = (np.flatnonzero(section.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    piece = section[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    contours = contour_generator(z=np.pad(piece, 1).astype(np.float64), fill_type=FillType.OuterOffset)
    origin = np.array([columns[0] - 1, rows[0] - 1])
    found = []
    for points, offsets in zip(*contours.filled(LEVEL, 2.0), strict=True):
        grid = np.rint(np.asarray(points) * _STEPS).astype(np.int64)
        outer, *holes = (grid[start : end - 1] for start, end in pairwise(np.asarray(offsets).tolist()))
        found.append(_without_straight_points(_joined(outer, holes)) / _STEPS + origin)
    return found


def _joined(ring: Grid, holes: list[Grid]) -> Grid:
    """A ring with its holes, each reached from the left; those further left are joined first.

    From the leftmost point of a hole the row of pixels to its left belongs to the mask up to where the ring crosses
    that row, and there the ring has a point, for it has one wherever it crosses a line between neighbouring centres.
    """
    for hole in sorted(holes, key=lambda points: int(points[:, 0].min())):
        first = int(np.argmin(hole[:, 0]))
        x, y = hole[first]
        left = np.flatnonzero((ring[:, 1] == y) & (ring[:, 0] < x))
        near = int(left[np.argmax(ring[left, 0])])
        way_round = np.vstack([hole[first:], hole[: first + 1]])
        ring = np.vstack([ring[: near + 1], way_round, ring[near:]])
    return ring


def _without_straight_points(ring: Grid) -> Grid:
    """A ring without the points at which it goes straight on."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    back = (before * after).sum(axis=1) < 0
    result: Grid = ring[turns | back]
    return result
