"""Synthetic abdominal CT with labels: demonstration data and test fixture, never a patient.

The anatomy is data: `scene.json` lists parts (fat, bones, organs, lesions) as implicit shapes in one canonical body,
painted in order. A seed draws the patient: size, fat, contrast phase, organ shifts, lesions, and a smooth random
displacement of space, so that every shape bends. A shape is a signed distance d in mm, negative inside, evaluated at
voxel centres and painted with the occupancy clip(1/2 - d / voxel, 0, 1): the same seed is the same patient at every
spacing. A first pass over blocks of about 9 mm skips the voxels that a part cannot reach.

Coordinates are RAS+: x grows towards the patient's right, y forwards, z upwards.
"""

import json
import math
import zlib
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from custom.tools.phantoms.shapes import FAR, Floats, Shape, loops, rotation, solid, union

_TEXT = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
_BODY = json.loads(_TEXT)
_SIZE_MM = np.array([360.0, 270.0, 330.0])  # field of view (H, W, D), centred on the body
_NOISE_HU = 12.0

ANATOMY_VERSION = f"{zlib.crc32(_TEXT.encode()):08x}"
"""Changes with `scene.json`: the version of the anatomy in a written data set."""

LABELS: dict[int, tuple[str, ...]] = {int(value): tuple(names) for value, names in _BODY["labels"].items()}
"""Label value -> the classes of its voxels: those of a tumour belong to the tumour and to its organ."""


@dataclass(frozen=True)
class Phantom:
    """One synthetic CT: `image` (H, W, D) in HU, `label` (H, W, D) of keys of `LABELS` or 0, `affine` (4, 4).

    The affine takes voxel indices to RAS+ mm, with the body's centre near 0.
    """

    image: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


def make_phantom(seed: int, *, spacing: tuple[float, float, float] = (3.0, 3.0, 3.0)) -> Phantom:
    """Render the patient drawn by `seed`, from the lung bases to the femoral heads: 360 x 270 x 330 mm.

    Args:
        seed: The patient. The same seed gives the same anatomy at every spacing.
        spacing: Voxel size (H, W, D) in mm, each in [0.5, 12].
    """
    if seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, not {seed}")
    if len(spacing) != 3 or not all(0.5 <= step <= 12 for step in spacing):
        raise ValueError(f"spacing must be three numbers in [0.5, 12] mm, not {spacing}")
    scene = _Scene(seed, np.asarray(spacing, float))
    for part in _BODY["parts"]:
        scene.paint(part)
    random = scene.random("noise")
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = scene.first + random.uniform(-12, 12, 3)
    noise = random.standard_normal(scene.shape, np.float32)
    noise = ndimage.gaussian_filter(noise, 1.0 / np.asarray(spacing), truncate=3)  # a reconstruction kernel of 1 mm
    image = scene.image.reshape(scene.shape) + noise * np.float32(_NOISE_HU / float(noise.std()))
    image = np.rint(np.clip(image, -1024, 2000)).astype(np.int16)
    return Phantom(image=image, label=scene.label.reshape(scene.shape), affine=affine)


class _Scene:
    """Flat voxels (N,), the canonical point (3, N) of each, and what has been painted so far."""

    def __init__(self, seed: int, spacing: npt.NDArray[np.float64]) -> None:
        self.seed, self.spacing = seed, spacing
        self.shape = tuple(int(count) for count in np.rint(_SIZE_MM / spacing))
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
        middles = [np.minimum(np.arange(0, n, b) + b // 2, n - 1) for n, b in zip(self.shape, self.block, strict=True)]
        self.blocks = tuple(map(len, middles))
        self.middles = np.ravel_multi_index(np.meshgrid(*middles, indexing="ij"), self.shape).reshape(-1)

    def random(self, name: str) -> np.random.Generator:
        """An independent stream for each named decision, so that a new part leaves the others as they are."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def field(self, name: str, node: float, axes: list[npt.NDArray[np.float64]]) -> Floats:
        """A smooth random field (N,) of unit variance: cubic B-splines on nodes `node` mm apart."""
        weights = []
        for axis, size in zip(axes, _SIZE_MM, strict=True):
            half = math.ceil(size / 2 / node) + 2
            u = np.abs(axis[:, None] / node - np.arange(-half, half + 1))
            weight = np.where(u < 1, 2 / 3 - u**2 + u**3 / 2, np.clip(2 - u, 0, None) ** 3 / 6)
            weights.append((weight / math.sqrt(0.479)).astype(np.float32))  # 0.479: mean of the sum of weight²
        field = self.random(name).standard_normal([weight.shape[1] for weight in weights], np.float32)
        for weight in weights:
            field = np.tensordot(field, weight, (0, 1))  # three times, which restores the order of the axes
        return np.ascontiguousarray(field).reshape(-1)

    def paint(self, part: Shape) -> None:
        """Draw one part of `scene.json`: its HU by occupancy, its label where the voxel centre is inside."""
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
                self.known[part["name"]] = np.full(self.label.shape, FAR, np.float16)
                self.known[part["name"]][index] = d
            if "rim" in part:
                self.blend({"hu": part["rim"][0]}, index, d - np.float32(part["rim"][1]))
            if "hu" in part:
                self.blend(part, index, d)
            if "label" in part:
                self.label[index[d < 0]] = part["label"]

    def blend(self, part: Shape, index: npt.NDArray[np.intp], d: Floats) -> None:
        """Paint a part's HU: its tissue, textures, and specks [texture, low, high, tissue] of another tissue."""
        index, d = index[d < self.voxel], d[d < self.voxel]
        hu = np.full(index.shape, self.tissue(part["hu"]), np.float32)
        for texture, amount in part.get("texture", {}).items():
            hu += np.float32(amount) * self.textures[texture][index]
        for texture, low, high, tissue in part.get("specks", []):
            value = self.textures[texture][index]
            hu[(value > low) & (value < high)] = self.tissue(tissue)
        self.image[index] += np.clip(0.5 - d / self.voxel, 0, 1) * (hu - self.image[index])

    def tissue(self, name: str | float) -> float:
        """HU of a tissue [unenhanced, arterial, portal venous, spread] in this patient's phase, or a plain HU."""
        if not isinstance(name, str):
            return float(name)
        *phases, spread = _BODY["tissues"][name]
        return float(phases[self.phase] + spread * self.random(f"tissue {name}").uniform(-1.7, 1.7))

    def pose(self, group: str) -> tuple[Floats, Floats]:
        """Turn (3, 3) and offset (3, 1), canonical -> local: a group's [centre, shift mm, turn degrees, log scale]."""
        *centre, shift, turn, scale = _BODY["groups"].get(group, [0] * 6)
        random = self.random(f"group {group}")
        matrix = rotation(random.uniform(-1.7, 1.7, 3) * turn) * np.exp(random.uniform(-1.7, 1.7, 3) * scale)
        offset = centre - matrix @ (centre + random.uniform(-1.7, 1.7, 3) * shift)
        return matrix.astype(np.float32), offset[:, None].astype(np.float32)

    def lesions(self, name: str, spec: Shape) -> list[Shape]:
        """Ellipsoids deep in a kept organ, at most `bulge` mm outside it; `count` holds the odds of 0, 1, 2..."""
        random = self.random(name)
        count = int(random.choice(len(spec["count"]), p=spec["count"]))
        shapes: list[Shape] = []
        for _ in range(count if spec["inside"] in self.known else 0):
            radius = float(random.uniform(*spec["radius"]))
            index = (random.uniform(-0.5, 0.5, (40000, 3)) * _SIZE_MM - self.first) / self.spacing
            depth = self.known[spec["inside"]].reshape(self.shape).astype(np.float32)
            inside = ndimage.map_coordinates(depth, index.T, order=1, cval=FAR) < -spec["depth"] * radius
            radii = random.uniform(0.75, 1.25, 3) * radius
            if inside.any():
                place = index[inside.argmax()][:, None]
                centre = [float(ndimage.map_coordinates(x.reshape(self.shape), place, order=1)[0]) for x in self.points]
                ball = {"ellipsoid": [*centre, *radii]}
                shapes.append({"all": [ball, {"known": spec["inside"], "grow": spec["bulge"]}]})
        return shapes

    def distance(self, shape: Shape, index: npt.NDArray[np.intp], points: Floats) -> Floats:
        """Signed distance (n,) in mm of a shape at voxels `index`, whose local points are (3, n)."""
        d: Floats
        smooth = shape.get("smooth", 0.0)
        if "any" in shape:
            d = reduce(partial(union, smooth=smooth), (self.distance(c, index, points) for c in shape["any"]))
        elif "all" in shape:
            d = -reduce(partial(union, smooth=smooth), (-self.distance(c, index, points) for c in shape["all"]))
        elif "not" in shape:
            d = -self.distance(shape["not"], index, points)
        elif "mirror" in shape:
            sides = (points, points * np.asarray([[-1], [1], [1]], np.float32))
            d = np.minimum(*(self.distance(shape["mirror"], index, side) for side in sides))
        elif "copies" in shape:
            d = np.full(index.shape, FAR, np.float32)
            for *place, tilt in shape["copies"]:
                moved = points - np.asarray(place, np.float32)[:, None]
                near = np.flatnonzero(np.einsum("in,in->n", moved, moved) < shape.get("within", 1e4) ** 2)
                local = rotation([tilt, 0, 0]).astype(np.float32) @ moved[:, near]
                d[near] = np.minimum(d[near], self.distance(shape["of"], index[near], local))
        elif "known" in shape:
            known = self.known.get(shape["known"])
            d = np.full(index.shape, FAR, np.float32) if known is None else known[index].astype(np.float32)
        elif "above" in shape:  # a fluid level stays flat in a bent body
            d = (shape["above"] - self.height[index]).astype(np.float32)
        elif "loops" in shape:
            d = solid({"tube": loops(shape["loops"], self.random("loops"))}, points)
        else:
            d = solid(shape, points)
        grow = self.fat if shape.get("grow") == "fat" else shape.get("grow", 0.0)
        return np.asarray(d - np.float32(grow))
