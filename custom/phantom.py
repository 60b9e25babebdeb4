"""Synthetic abdominal CT with labels: demonstration data and test fixture, never a patient.

The anatomy is data: `phantom.json` lists parts (fat, bones, organs, lesions) as implicit shapes in one canonical body,
painted in order. A seed draws the patient: size, fat, contrast phase, organ shifts, lesions, and a smooth random
displacement of space, so that every shape bends. A shape is a signed distance d in mm, negative inside, evaluated at
voxel centres and painted with the occupancy clip(1/2 - d / voxel, 0, 1): the same seed is the same patient at every
spacing. A first pass over blocks of about 9 mm skips the voxels that a part cannot reach.

Coordinates are RAS+: x grows towards the patient's right, y forwards, z upwards.
"""

import json
import math
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import interpolate, ndimage, spatial

Floats = npt.NDArray[np.float32]
Shape = dict[str, Any]

_TEXT = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
_BODY = json.loads(_TEXT)
_FAR = 60.0  # mm: the distance noted for voxels that a shape cannot reach

LABELS: dict[int, tuple[str, ...]] = {int(value): tuple(names) for value, names in _BODY["labels"].items()}
"""Raw label value -> the classes its voxels belong to: a tumour's voxels belong to the tumour and to its organ."""


@dataclass(frozen=True)
class Phantom:
    """One synthetic CT: `image` (H, W, D) in HU, `label` (H, W, D) of keys of `LABELS` or 0, `affine` (4, 4).

    The affine takes voxel indices to RAS+ mm, with the body's centre near 0.
    """

    image: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


def make_phantom(
    seed: int,
    *,
    spacing: tuple[float, float, float] = (3.0, 3.0, 3.0),
    size_mm: tuple[float, float, float] = (360.0, 270.0, 330.0),
    noise_hu: float = 12.0,
) -> Phantom:
    """Render the patient drawn by `seed`, from the lung bases to the femoral heads.

    Args:
        seed: The patient. The same seed and size give the same anatomy at every spacing.
        spacing: Voxel size (H, W, D) in mm, each in [0.5, 12].
        size_mm: Field of view (H, W, D) in mm, centred on the body, each at least 60.
        noise_hu: Standard deviation of the noise in HU, at least 0.
    """
    if seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, not {seed}")
    if len(spacing) != 3 or not all(0.5 <= step <= 12 for step in spacing):
        raise ValueError(f"spacing must be three numbers in [0.5, 12] mm, not {spacing}")
    if len(size_mm) != 3 or not all(size >= 60 for size in size_mm):
        raise ValueError(f"size_mm must be three numbers of at least 60 mm, not {size_mm}")
    if noise_hu < 0:
        raise ValueError(f"noise_hu must be a number of at least 0 HU, not {noise_hu}")
    scene = _Scene(seed, np.asarray(spacing, float), np.asarray(size_mm, float))
    for part in _BODY["parts"]:
        scene.paint(part)
    random = scene.random("noise")
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = scene.first + random.uniform(-12, 12, 3)
    noise = random.standard_normal(scene.shape, np.float32)
    noise = ndimage.gaussian_filter(noise, 1.0 / np.asarray(spacing), truncate=3)  # a reconstruction kernel of 1 mm
    image = scene.image.reshape(scene.shape) + noise * np.float32(noise_hu / float(noise.std()))
    image = np.rint(np.clip(image, -1024, 2000)).astype(np.int16)
    return Phantom(image=image, label=scene.label.reshape(scene.shape), affine=affine)


class _Scene:
    """Flat voxels (N,), the canonical point (3, N) each one looks at, and what has been painted so far."""

    def __init__(self, seed: int, spacing: npt.NDArray[np.float64], size: npt.NDArray[np.float64]) -> None:
        self.seed, self.spacing, self.size = seed, spacing, size
        self.shape = tuple(int(count) for count in np.maximum(np.rint(size / spacing), 1))
        self.first = -0.5 * (np.asarray(self.shape) - 1) * spacing
        self.image = np.full(math.prod(self.shape), -1000, np.float32)
        self.label = np.zeros(math.prod(self.shape), np.uint8)
        self.voxel = np.float32(np.prod(spacing) ** (1 / 3))
        self.known: dict[str, npt.NDArray[np.float16]] = {}
        random = self.random("patient")
        self.phase = int(random.choice(3, p=_BODY["phases"]))
        self.fat = float(random.uniform(*_BODY["fat_mm"]))
        self.scale = _BODY["scale"] * np.exp(random.normal(0, 0.03) + random.normal(0, 0.02, 3))
        axes = [f + s * np.arange(n) for f, s, n in zip(self.first, spacing, self.shape, strict=True)]
        self.textures = {name: self.field(name, mm, axes) for name, mm in _BODY["textures"].items()}
        self.points = np.empty((3, self.image.size), np.float32)
        for axis, (line, scale, centre) in enumerate(zip(axes, self.scale, _BODY["centre"], strict=True)):
            straight = np.expand_dims((line / scale + centre).astype(np.float32), [i for i in range(3) if i != axis])
            straight = np.broadcast_to(straight, self.shape).reshape(-1)
            bends = (np.float32(mm) * self.field(f"bend {axis} {node}", node, axes) for node, mm in _BODY["bends"])
            self.points[axis] = sum(bends, straight)
            if axis == 1:
                self.height = straight
        self.block = np.maximum(1, np.rint(9.0 / spacing)).astype(int)
        starts = [np.arange(0, n, b) for n, b in zip(self.shape, self.block, strict=True)]
        middles = [np.minimum(a + b // 2, n - 1) for a, b, n in zip(starts, self.block, self.shape, strict=True)]
        self.blocks = tuple(len(start) for start in starts)
        self.middles = np.ravel_multi_index(np.meshgrid(*middles, indexing="ij"), self.shape).reshape(-1)

    def random(self, name: str) -> np.random.Generator:
        """One independent stream per named decision, so that a new part does not redraw the patient."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def field(self, name: str, node: float, axes: list[npt.NDArray[np.float64]]) -> Floats:
        """A smooth random field (N,) of unit variance: cubic B-splines on nodes `node` mm apart."""
        weights = []
        for axis, size in zip(axes, self.size, strict=True):
            half = math.ceil(size / 2 / node) + 2
            u = np.abs(axis[:, None] / node - np.arange(-half, half + 1))
            weight = np.where(u < 1, 2 / 3 - u**2 + u**3 / 2, np.clip(2 - u, 0, None) ** 3 / 6)
            weights.append((weight / math.sqrt(0.479)).astype(np.float32))  # 0.479: mean of the sum of weight²
        field = self.random(name).standard_normal([weight.shape[1] for weight in weights], np.float32)
        for weight in weights:
            field = np.tensordot(field, weight, (0, 1))  # three turns bring the axes back into order
        return np.ascontiguousarray(field).reshape(-1)

    def paint(self, part: Shape) -> None:
        """Draw one part of `phantom.json`: its HU by occupancy, its label where the voxel centre is inside."""
        group = str(part.get("group", part["name"]))
        if self.random(f"absent {group}").random() < part.get("absent", 0.0):
            return
        turn, offset = self.pose(group)
        for shape in self.lesions(part["name"], part["lesions"]) if "lesions" in part else [part["shape"]]:
            reach = 0.65 * float(np.linalg.norm(self.block * self.spacing) / self.scale.min()) + 4
            mask = self.distance(shape, self.middles, turn @ self.points[:, self.middles] + offset) < reach
            mask = mask.reshape(self.blocks)
            for axis, repeat in enumerate(self.block):
                mask = mask.repeat(repeat, axis).take(range(self.shape[axis]), axis)
            index = np.flatnonzero(mask)
            d = self.distance(shape, index, turn @ self.points[:, index] + offset)
            for texture, amount in part.get("rough", {}).items():
                d += np.float32(amount) * self.textures[texture][index]
            if part.get("keep"):
                self.known[part["name"]] = np.full(self.label.shape, _FAR, np.float16)
                self.known[part["name"]][index] = d
            if "rim" in part:
                self.blend({"hu": part["rim"][0]}, index, d - np.float32(part["rim"][1]))
            if "hu" in part:
                self.blend(part, index, d)
            if "label" in part:
                self.label[index[d < 0]] = part["label"]

    def blend(self, part: Shape, index: npt.NDArray[np.intp], d: Floats) -> None:
        index, d = index[d < self.voxel], d[d < self.voxel]
        occupancy = np.clip(0.5 - d / self.voxel, 0, 1)
        self.image[index] += occupancy * (self.hounsfield(part, index) - self.image[index])

    def hounsfield(self, part: Shape, index: npt.NDArray[np.intp]) -> Floats:
        """HU (n,) of a part: its tissue, textures, and specks [texture, low, high, tissue] of another tissue."""
        hu = np.full(index.shape, self.tissue(part["hu"]), np.float32)
        for texture, amount in part.get("texture", {}).items():
            hu += np.float32(amount) * self.textures[texture][index]
        for texture, low, high, tissue in part.get("specks", []):
            value = self.textures[texture][index]
            hu[(value > low) & (value < high)] = self.tissue(tissue)
        return hu

    def tissue(self, name: str | float) -> float:
        """HU of a tissue [unenhanced, arterial, portal venous, spread] in this patient's phase, or a plain HU."""
        if not isinstance(name, str):
            return float(name)
        *phases, spread = _BODY["tissues"][name]
        return float(phases[self.phase] + spread * self.random(f"tissue {name}").uniform(-1.7, 1.7))

    def pose(self, group: str) -> tuple[Floats, Floats]:
        """Turn (3, 3) and offset (3, 1), canonical -> local: a group's [centre, shift mm, turn degrees, log scale]."""
        if group not in _BODY["groups"]:
            return np.eye(3, dtype=np.float32), np.zeros((3, 1), np.float32)
        *centre, shift, turn, scale = _BODY["groups"][group]
        random = self.random(f"group {group}")
        matrix = _turn(random.uniform(-1.7, 1.7, 3) * turn) * np.exp(random.uniform(-1.7, 1.7, 3) * scale)
        offset = centre - matrix @ (centre + random.uniform(-1.7, 1.7, 3) * shift)
        return matrix.astype(np.float32), offset[:, None].astype(np.float32)

    def lesions(self, name: str, spec: Shape) -> list[Shape]:
        """Ellipsoids deep in a kept organ, at most `bulge` mm outside it; `count` holds the odds of 0, 1, 2..."""
        random = self.random(name)
        count = int(random.choice(len(spec["count"]), p=spec["count"]))
        shapes: list[Shape] = []
        while len(shapes) < count and spec["inside"] in self.known:
            radius = float(random.uniform(*spec["radius"]))
            index = (random.uniform(-0.5, 0.5, (40000, 3)) * self.size - self.first) / self.spacing
            depth = self.known[spec["inside"]].reshape(self.shape).astype(np.float32)
            inside = ndimage.map_coordinates(depth, index.T, order=1, cval=_FAR) < -spec["depth"] * radius
            radii = random.uniform(0.75, 1.25, 3) * radius
            if inside.any():
                place = index[inside.argmax()][:, None]
                centre = [float(ndimage.map_coordinates(x.reshape(self.shape), place, order=1)[0]) for x in self.points]
                ball = {"ellipsoid": [*centre, *radii]}
                shapes.append({"all": [ball, {"known": spec["inside"], "grow": spec["bulge"]}]})
            else:
                count -= 1
        return shapes

    def distance(self, shape: Shape, index: npt.NDArray[np.intp], points: Floats) -> Floats:
        """Signed distance (n,) in mm of a shape at voxels `index`, whose local points are (3, n)."""
        d: Floats
        smooth = shape.get("smooth", 0.0)
        if "any" in shape:
            d = reduce(partial(_nearest, smooth=smooth), (self.distance(c, index, points) for c in shape["any"]))
        elif "all" in shape:
            d = -reduce(partial(_nearest, smooth=smooth), (-self.distance(c, index, points) for c in shape["all"]))
        elif "not" in shape:
            d = -self.distance(shape["not"], index, points)
        elif "mirror" in shape:
            sides = (points, points * np.asarray([[-1], [1], [1]], np.float32))
            d = np.minimum(*(self.distance(shape["mirror"], index, side) for side in sides))
        elif "copies" in shape:
            d = np.full(index.shape, _FAR, np.float32)
            for *place, tilt in shape["copies"]:
                moved = points - np.asarray(place, np.float32)[:, None]
                near = np.flatnonzero(np.einsum("in,in->n", moved, moved) < shape.get("within", 1e4) ** 2)
                local = _turn([tilt, 0, 0]).astype(np.float32) @ moved[:, near]
                d[near] = np.minimum(d[near], self.distance(shape["of"], index[near], local))
        elif "known" in shape:
            known = self.known.get(shape["known"])
            d = np.full(index.shape, _FAR, np.float32) if known is None else known[index].astype(np.float32)
        elif "above" in shape:  # a fluid level stays flat, whatever the bending does
            d = (shape["above"] - self.height[index]).astype(np.float32)
        elif "loops" in shape:
            d = _tube({"tube": _loops(shape["loops"], self.random("loops"))}, points)
        else:
            d = next(solid for name, solid in _SOLIDS.items() if name in shape)(shape, points)
        grow = self.fat if shape.get("grow") == "fat" else shape.get("grow", 0.0)
        return np.asarray(d - np.float32(grow))


def _turn(degrees: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(spatial.transform.Rotation.from_euler("xyz", degrees, degrees=True).as_matrix())


def _nearest(a: Floats, b: Floats, *, smooth: float) -> Floats:
    """Minimum of two distances, rounded over `smooth` mm by a polynomial."""
    nearest: Floats = np.minimum(a, b)
    if smooth:
        nearest -= np.float32(smooth / 4) * np.clip(1 - np.abs(a - b) / np.float32(smooth), 0, None) ** 2
    return nearest


def _ellipsoid(shape: Shape, points: Floats) -> Floats:
    """[centre, radii] of 3 axes, or of x and y for a cylinder: k0 (k0 - 1) / k1, k0 = |p / r|, k1 = |p / r²|."""
    values = np.reshape(np.asarray(shape["ellipsoid"], np.float32), (2, -1, 1))
    p = points[: values.shape[1]] - values[0]
    if "turn" in shape:
        p = _turn(shape["turn"]).astype(np.float32).T @ p
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
    edges = interpolate.Akima1DInterpolator(np.arange(edges.shape[1]), edges, axis=1)(
        np.linspace(0, edges.shape[1] - 1, 70)
    )
    return _balls(np.concatenate([edges[0] + t * (edges[1] - edges[0]) for t in np.linspace(0, 1, 36)]), points)


def _balls(nodes: npt.NDArray[np.float64], points: Floats) -> Floats:
    """Distance to many balls, rows [x, y, z, radius], as that to the nearest centre less its radius."""
    reach = float(nodes[:, 3].max()) + 14
    low, high = (nodes[:, :3].min(0) - reach)[:, None], (nodes[:, :3].max(0) + reach)[:, None]
    near = np.flatnonzero(((points > low) & (points < high)).all(0))
    distance, nearest = spatial.KDTree(nodes[:, :3]).query(points[:, near].T, distance_upper_bound=reach)
    d = np.full(points.shape[1], _FAR, np.float32)
    d[near] = np.where(np.isfinite(distance), distance - np.r_[nodes[:, 3], 0][nearest], _FAR)
    return d


def _loops(loops: list[Any], random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Rows [x, y, z, radius] of a gut that wanders through an ellipsoid: a walk to the nearest place not yet seen."""
    centre, radii, pitch, radius = loops
    axes = [np.arange(-r + pitch / 2, r, pitch) for r in radii]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    places = places[((places / radii) ** 2).sum(1) < 1] + centre
    places += random.uniform(-0.3, 0.3, places.shape) * pitch
    walk = [int(np.argmax(places @ [-1, 0, 1]))]
    while len(walk) < len(places):
        steps = np.linalg.norm(places - places[walk[-1]], axis=1)
        steps[walk] = np.inf
        walk.append(int(steps.argmin()))
    return np.column_stack([places[walk], radius * random.uniform(0.8, 1.2, len(walk))])


_SOLIDS: dict[str, Callable[[Shape, Floats], Floats]] = {
    "ellipsoid": _ellipsoid,
    "half": _half,
    "column": _column,
    "tube": _tube,
    "sheet": _sheet,
}


def write_phantoms(
    output_dir: str | os.PathLike[str],
    *,
    count: int,
    seed: int = 0,
    spacing: tuple[float, float, float] = (3.0, 3.0, 3.0),
    splits: Mapping[str, int] | None = None,
    overwrite: bool = False,
    on_case: Callable[[int], None] | None = None,
) -> Path:
    """Write phantoms `seed` ... `seed + count - 1` as NIfTI with a data list, and return the path of `dataset.json`.

    A file that this version already wrote for the same seed and spacing is kept, so an interrupted call can be
    repeated; every file appears whole, and `dataset.json` last: where it exists, the data set is complete.

    Args:
        output_dir: Receives `images/phantom_0000.nii.gz` (int16, HU), `labels/phantom_0000.nii.gz` (uint8, keys of
            `LABELS`) and `dataset.json`.
        count: Number of phantoms, at least 1.
        seed: Seed of the first phantom.
        spacing: Voxel size (H, W, D) in mm.
        splits: Cases per list of `dataset.json`, in order, e.g. {"training": 8, "validation": 2, "test": 2}; all are
            for training if None.
        overwrite: Replace files of other seeds, spacings or versions, which are otherwise refused.
        on_case: Called with each case number once its files are in place.
    """
    splits = {"training": count} if splits is None else splits
    if count < 1 or min(splits.values(), default=0) < 0 or sum(splits.values()) != count:
        raise ValueError(f"splits must be counts that add up to count (at least 1), not {dict(splits)} for {count}")
    root = Path(output_dir)
    version = zlib.crc32(_TEXT.encode())
    cases = [{kind: f"{kind}s/phantom_{case:04d}.nii.gz" for kind in ("image", "label")} for case in range(count)]
    marks = [f"phantom seed {seed + case} version {version:08x}" for case in range(count)]
    kept = [
        [_holds(root / name, mark, spacing, overwrite) for name in names.values()]
        for names, mark in zip(cases, marks, strict=True)
    ]
    if not np.all(kept):
        (root / "dataset.json").unlink(missing_ok=True)
    for case, (names, mark) in enumerate(zip(cases, marks, strict=True)):
        if not all(kept[case]):
            phantom = make_phantom(seed + case, spacing=spacing)
            _write_nifti(root / names["image"], phantom.image, phantom.affine, mark)
            _write_nifti(root / names["label"], phantom.label, phantom.affine, mark)
        if on_case is not None:
            on_case(case)
    listed = iter(cases)
    content = {
        "name": "phantom",
        "description": "synthetic abdominal CT drawn by custom.phantom (not patients)",
        "seed": seed,
        "spacing": list(spacing),
        "labels": {str(value): list(names) for value, names in LABELS.items()},
        **{name: [next(listed) for _ in range(number)] for name, number in splits.items()},
    }
    partial_path = root / f".{os.getpid()}.dataset.json"
    partial_path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return partial_path.replace(root / "dataset.json")


def _holds(path: Path, mark: str, spacing: tuple[float, float, float], overwrite: bool) -> bool:
    """Whether the file is the marked phantom; another one is refused unless it may be replaced."""
    if not path.exists():
        return False
    header = nib.nifti1.load(path).header
    found = bytes(header["descrip"].item()).decode(errors="replace")
    same = found == mark and np.allclose(header.get_zooms(), spacing)
    if not same and not overwrite:
        raise ValueError(
            f"{path} must be '{mark}' at {tuple(spacing)} mm, not '{found}' at {header.get_zooms()} mm: "
            "choose an empty output_dir, or replace it with overwrite=True"
        )
    return same


def _write_nifti(path: Path, voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64], mark: str) -> None:
    image = nib.nifti1.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header["descrip"] = mark
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f".{os.getpid()}.{path.name}")
    nib.loadsave.save(image, partial_path)
    partial_path.replace(path)
