"""Smooth outlines of voxel masks."""

import numpy as np
import numpy.typing as npt
from contourpy import contour_generator
from matplotlib.path import Path
from scipy.ndimage import gaussian_filter1d

Points = npt.NDArray[np.float64]

#: Length over which corners are rounded, in pixels; less on small pieces.
SIGMA = 1.5

#: Points per pixel of the outline.
DENSITY = 4


def outline(section: npt.NDArray[np.bool_], spacing: tuple[float, float]) -> Path:
    """The outline of a non-empty mask (rows, columns) as closed rings, in mm right and down from the top left corner.

    Each ring follows the edges of the pixels, smoothed along its length and then offset outwards until it encloses the
    area of the pixels, so that area and single pixels are preserved. ``spacing`` is that of rows and columns, in mm.
    """
    rows, columns = (np.flatnonzero(section.any(axis=axis)) for axis in (1, 0))
    piece = section[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    fine = np.pad(piece.repeat(DENSITY, axis=0).repeat(DENSITY, axis=1), 1).astype(np.float32)
    edges = contour_generator(z=fine).lines(0.5)
    origin = np.array([columns[0], rows[0]])
    rings = [_smooth((np.asarray(edge)[:-1] - 0.5) / DENSITY) + origin for edge in edges]
    closed = [Path(np.vstack([ring, ring[:1]]) * spacing[::-1], closed=True) for ring in rings]
    return Path.make_compound_path(*closed)


def _smooth(ring: Points) -> Points:
    steps = np.linalg.norm(np.roll(ring, -1, axis=0) - ring, axis=1)
    length = float(steps.sum())
    count = max(int(length * DENSITY), 32)
    positions, corners = np.linspace(0, length, count, endpoint=False), np.concatenate([[0], steps.cumsum()])
    closed = np.vstack([ring, ring[:1]])
    even = np.stack([np.interp(positions, corners, closed[:, axis]) for axis in (0, 1)], axis=1)
    area = enclosed(ring)
    smooth: Points = gaussian_filter1d(even, min(SIGMA, length / 8) * count / length, axis=0, mode="wrap")
    for _ in range(4):
        along = np.roll(smooth, -1, axis=0) - np.roll(smooth, 1, axis=0)
        perimeter = float(np.linalg.norm(along, axis=1).sum()) / 2
        outwards = np.stack([along[:, 1], -along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
        smooth = smooth + outwards * ((area - enclosed(smooth)) / perimeter)
    return smooth


def enclosed(ring: Points) -> float:
    """Area of a ring (n, 2); negative for a hole, whose orientation is opposite."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
