"""Polygons around the pixels of a mask's slice that contain exactly their centres."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from contourpy import FillType, contour_generator

Points = npt.NDArray[np.float64]
Grid = npt.NDArray[np.int64]

#: Polygons cross between the centres of a pixel inside and one outside at 0.49 of the way, not halfway, so that
#: programs which round points to pixels, as OpenCV does, find the same mask.
LEVEL = 0.51
_STEPS = 100  # per pixel: points are rounded, so that they compare exactly


def polygons(section: npt.NDArray[np.bool_]) -> list[Points]:
    """Polygons (n, 2) of (column, row) that contain the centres of the pixels of a mask (rows, columns) and no others.

    They run between the centres of pixels inside and outside (marching squares), so a single pixel is a polygon too,
    and large structures keep their area. A hole is connected to the polygon around it by a channel without width (the
    keyhole of DICOM PS3.3 C.8.8.6.3), which neither the even-odd nor the winding rule sees.
    """
    rows, columns = (np.flatnonzero(section.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    cropped = section[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    contours = contour_generator(z=np.pad(cropped, 1).astype(np.float64), fill_type=FillType.OuterOffset)
    origin = np.array([columns[0] - 1, rows[0] - 1])
    found = []
    for points, offsets in zip(*contours.filled(LEVEL, 2.0), strict=True):
        grid = np.rint(np.asarray(points) * _STEPS).astype(np.int64)
        outer, *holes = (grid[start : end - 1] for start, end in pairwise(np.asarray(offsets).tolist()))
        found.append(_without_collinear_points(_with_keyholes(outer, holes)) / _STEPS + origin)
    return found


def _with_keyholes(ring: Grid, holes: list[Grid]) -> Grid:
    """A ring connected to its holes, from the leftmost to the rightmost, each by a channel to its left.

    The pixels to the left of a hole's leftmost point belong to the mask up to where the ring crosses their row, and the
    ring has a point there, as wherever it crosses a line between neighbouring centres.
    """
    for hole in sorted(holes, key=lambda points: int(points[:, 0].min())):
        first = int(np.argmin(hole[:, 0]))
        x, y = hole[first]
        left = np.flatnonzero((ring[:, 1] == y) & (ring[:, 0] < x))
        nearest = int(left[np.argmax(ring[left, 0])])
        around = np.vstack([hole[first:], hole[: first + 1]])
        ring = np.vstack([ring[: nearest + 1], around, ring[nearest:]])
    return ring


def _without_collinear_points(ring: Grid) -> Grid:
    """A ring without the points between two edges of one direction."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    back = (before * after).sum(axis=1) < 0
    corners: Grid = ring[turns | back]
    return corners
