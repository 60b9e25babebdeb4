"""Signed distances in mm to the solids that `scene.json` names, at points (3, n) in RAS+ mm; negative inside."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import interpolate, spatial

Floats = npt.NDArray[np.float32]
Shape = dict[str, Any]

FAR = 60.0
"""Distance in mm of points that a shape cannot reach."""


def rotation(degrees: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Matrix (3, 3) of turns about x, y and z."""
    return np.asarray(spatial.transform.Rotation.from_euler("xyz", degrees, degrees=True).as_matrix())


def union(a: Floats, b: Floats, *, smooth: float) -> Floats:
    """Minimum of two distances, the solids' union, rounded over `smooth` mm by a polynomial."""
    nearest: Floats = np.minimum(a, b)
    if smooth:
        nearest -= np.float32(smooth / 4) * np.clip(1 - np.abs(a - b) / np.float32(smooth), 0, None) ** 2
    return nearest


def _ellipsoid(shape: Shape, points: Floats) -> Floats:
    """[centre, radii] of 3 axes, or of x and y for a cylinder: k0 (k0 - 1) / k1, k0 = |p / r|, k1 = |p / r²|."""
    values = np.reshape(np.asarray(shape["ellipsoid"], np.float32), (2, -1, 1))
    p = points[: values.shape[1]] - values[0]
    if "turn" in shape:
        p = rotation(shape["turn"]).astype(np.float32).T @ p
    p /= values[1]
    k0 = np.sqrt((p**2).sum(0) + 1e-6)
    return np.asarray(k0 * (k0 - 1) / np.sqrt(((p / values[1]) ** 2).sum(0) + 1e-6 / values[1].min() ** 2))


def _half(shape: Shape, points: Floats) -> Floats:
    """[normal, point]: the half space behind a plane."""
    normal, point = np.reshape(np.asarray(shape["half"], np.float32), (2, 3))
    return np.asarray((normal / np.linalg.norm(normal)) @ (points - point[:, None]), np.float32)


def _column(shape: Shape, points: Floats) -> Floats:
    """Rows [z, half width, front y, back y], z ascending: a stack of superellipses of exponent 2.5."""
    rows = np.asarray(shape["column"])
    z = np.arange(rows[0, 0], rows[-1, 0] + 1)
    profile = interpolate.PchipInterpolator(rows[:, 0], rows[:, 1:])(z)
    rx, front, back = (np.interp(points[2], z, values).astype(np.float32) for values in profile.T)
    ry = (front - back) / 2
    u, v = np.abs(points[0]) / rx, np.abs(points[1] - (front + back) / 2) / ry
    pu, pv = u * np.sqrt(u), v * np.sqrt(v)
    k = (pu * u + pv * v + np.float32(1e-6)) ** np.float32(0.4)
    return np.asarray((k - 1) * k * np.sqrt(k) / np.sqrt((pu / rx) ** 2 + (pv / ry) ** 2 + np.float32(1e-7)))


def _tube(shape: Shape, points: Floats) -> Floats:
    """Rows [x, y, z, radius] joined by a spline; `ripple` [fraction, period in mm] makes the folds of a gut."""
    rows = np.asarray(shape["tube"], float)
    length = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(rows[:, :3], axis=0), axis=1))]
    steps = np.linspace(0, length[-1], math.ceil(length[-1] / 2.5) + 1)
    nodes = interpolate.Akima1DInterpolator(length, rows)(steps)
    amount, period = shape.get("ripple", (0.0, 1.0))
    nodes[:, 3] *= 1 + amount * np.sin(2 * np.pi * steps / period)
    return _balls(nodes, points)


def _sheet(shape: Shape, points: Floats) -> Floats:
    """Two edges of as many rows [x, y, z, radius], joined by a smooth plate: a flat bone."""
    edges = np.asarray(shape["sheet"], float)
    rows = np.arange(edges.shape[1])
    edges = interpolate.Akima1DInterpolator(rows, edges, axis=1)(np.linspace(0, rows[-1], 70))
    return _balls(np.concatenate([edges[0] + t * (edges[1] - edges[0]) for t in np.linspace(0, 1, 36)]), points)


def _balls(nodes: npt.NDArray[np.float64], points: Floats) -> Floats:
    """Distance to many balls, rows [x, y, z, radius], as that to the nearest centre less its radius."""
    reach = float(nodes[:, 3].max()) + 14
    low, high = (nodes[:, :3].min(0) - reach)[:, None], (nodes[:, :3].max(0) + reach)[:, None]
    near = np.flatnonzero(((points > low) & (points < high)).all(0))
    distance, nearest = spatial.KDTree(nodes[:, :3]).query(points[:, near].T, distance_upper_bound=reach)
    d = np.full(points.shape[1], FAR, np.float32)
    d[near] = np.where(np.isfinite(distance), distance - np.r_[nodes[:, 3], 0][nearest], FAR)
    return d


def loops(spec: list[Any], random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Tube rows [x, y, z, radius] of a gut that fills an ellipsoid: a walk to the nearest node not yet visited.

    `spec` is [centre, radii, pitch, tube radius], the first two of 3 axes.
    """
    centre, radii, pitch, radius = spec
    axes = [np.arange(-r + pitch / 2, r, pitch) for r in radii]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    nodes = nodes[((nodes / radii) ** 2).sum(1) < 1] + centre
    nodes += random.uniform(-0.3, 0.3, nodes.shape) * pitch
    walk = [int(np.argmax(nodes @ [-1, 0, 1]))]
    while len(walk) < len(nodes):
        steps = np.linalg.norm(nodes - nodes[walk[-1]], axis=1)
        steps[walk] = np.inf
        walk.append(int(steps.argmin()))
    return np.column_stack([nodes[walk], radius * random.uniform(0.8, 1.2, len(walk))])


def solid(shape: Shape, points: Floats) -> Floats:
    """Distance (n,) to the one solid that `shape` names."""
    solids = {"ellipsoid": _ellipsoid, "half": _half, "column": _column, "tube": _tube, "sheet": _sheet}
    return next(distance for name, distance in solids.items() if name in shape)(shape, points)
