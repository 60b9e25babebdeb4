"""Where to cut a volume so that its structures can be judged, and what a cut shows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from custom.anatomy.class_set import AnatomicalClass

Voxel = TypeVar("Voxel", bound=np.generic)
Masks = Mapping[AnatomicalClass, npt.NDArray[np.bool_]]
Sections = dict[AnatomicalClass, npt.NDArray[np.bool_]]

#: The largest structure keeps at least this share of its widest area; the first that shows most structures is taken.
SHARES = (0.8, 0.5, 0.2)

#: What a structure counts in the choice of a section, once an earlier plane shows it.
SHOWN_WEIGHT = 0.25

#: Around body and structures, in mm, where the image goes on.
MARGIN = 8

#: Most that is shown from head to foot, in mm, unless the structures reach farther.
TALLEST = 480


class Plane(NamedTuple):
    """A viewing plane: name, axis cut (RAS), letters at the edges as radiologists look at them."""

    name: str
    axis: int
    left: str
    right: str
    top: str
    bottom: str

    @property
    def shown(self) -> tuple[int, int]:
        """The axes (RAS) that run along rows and columns: down and across."""
        down, across = (axis for axis in (2, 1, 0) if axis != self.axis)
        return down, across


PLANES = (
    Plane("axial", 2, "R", "L", "A", "P"),
    Plane("coronal", 1, "R", "L", "S", "I"),
    Plane("sagittal", 0, "A", "P", "S", "I"),
)


class Panel(NamedTuple):
    """What one plane shows.

    Attributes:
        plane: how it lies.
        position: of the cut's centre: "S 214 mm" is 214 mm above the origin of the scanner.
        pixels: the image (rows, columns).
        layers: the structures found there, for each layer of masks.
        spacing: between rows and between columns, in mm.
    """

    plane: Plane
    position: str
    pixels: npt.NDArray[np.float32]
    layers: tuple[Sections, ...]
    spacing: tuple[float, float]


class _Turned(Mapping[AnatomicalClass, npt.NDArray[np.bool_]]):
    """Those of some masks that are not empty, in another orientation; each is made when it is looked up."""

    def __init__(self, masks: Masks, orientation: npt.NDArray[np.float64]) -> None:
        self.masks = masks
        self.orientation = orientation
        self.present = [item for item, mask in masks.items() if mask.any()]

    def __len__(self) -> int:
        return len(self.present)

    def __iter__(self) -> Iterator[AnatomicalClass]:
        return iter(self.present)

    def __getitem__(self, item: AnatomicalClass) -> npt.NDArray[np.bool_]:
        turned: npt.NDArray[np.bool_] = nib.apply_orientation(self.masks[item], self.orientation)
        return turned


def choose_panels(
    image: npt.NDArray[np.float32],
    layers: Sequence[Masks],
    affine: npt.NDArray[np.float64],
    *,
    air: float,
) -> list[Panel]:
    """Cut three planes through the largest structure, where most of the others are seen too.

    In each plane the largest structure keeps ``SHARES[0]`` of its widest area, less only where that shows more
    structures. Among those cuts every structure counts by its area over its own widest, so that a small tumour weighs
    as much as the liver, and less once an earlier plane shows it. Without any structure the cuts go through the middle.
    The panels are cropped to the body, all three to one box.

    Args:
        image: (H, W, D).
        layers: masks (H, W, D) per class, e.g. truth and prediction. The first that is not empty chooses the cuts.
        affine: voxel to world (4, 4), RAS+ in mm; any orientation, shown in the radiological convention.
        air: intensity up to which a pixel is no part of the body.
    """
    to_ras = nib.io_orientation(affine)
    volume = nib.apply_orientation(image, to_ras)
    matrix = affine @ nib.orientations.inv_ornt_aff(to_ras, image.shape)
    turned = [_Turned(masks, to_ras) for masks in layers]
    cuts = choose_cuts(next(filter(len, turned), {}), volume.shape)
    sizes = voxel_sizes(matrix)
    whole = []
    for plane, index in zip(PLANES, cuts, strict=True):
        sections = tuple({item: _cut(mask, plane, index) for item, mask in masks.items()} for masks in turned)
        centre = [index if axis == plane.axis else (volume.shape[axis] - 1) / 2 for axis in range(3)]
        whole.append(
            Panel(
                plane,
                _position(plane, apply_affine(matrix, centre)),
                _cut(volume, plane, index),
                tuple({item: cut for item, cut in layer.items() if cut.any()} for layer in sections),
                (float(sizes[plane.shown[0]]), float(sizes[plane.shown[1]])),
            )
        )
    return _crop(whole, air)


def choose_cuts(masks: Masks, shape: Sequence[int]) -> list[int]:
    """Index of the cut in each of ``PLANES``, for masks (H, W, D) in RAS that are not empty."""
    if not masks:
        return [shape[plane.axis] // 2 for plane in PLANES]
    areas = {
        item: [np.count_nonzero(mask, axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
        for item, mask in masks.items()
    }
    largest = max(areas, key=lambda item: int(areas[item][0].sum()))
    best: list[int] = []
    most = 0
    for share in SHARES:
        cuts: list[int] = []
        shown: set[AnatomicalClass] = set()
        for plane in PLANES:
            profiles = {item: profile[plane.axis] for item, profile in areas.items()}
            worth = sum(
                profile / profile.max() * (SHOWN_WEIGHT if item in shown else 1) for item, profile in profiles.items()
            )
            own = profiles[largest]
            worth = np.where(own >= share * own.max(), worth, 0.0)
            equal = np.flatnonzero(worth >= worth.max() - 1e-9)
            cuts.append(int(equal[len(equal) // 2]))
            shown |= {item for item, profile in profiles.items() if profile[cuts[-1]]}
        if len(shown) > most:
            best, most = cuts, len(shown)
    return best


def _position(plane: Plane, centre: npt.NDArray[np.float64]) -> str:
    millimetres = round(float(centre[plane.axis]))
    letter = ("LR", "PA", "IS")[plane.axis][millimetres >= 0]
    return f"{letter} {abs(millimetres)} mm"


def _cut(volume: npt.NDArray[Voxel], plane: Plane, index: int) -> npt.NDArray[Voxel]:
    """Section of a RAS volume as an image: superior or anterior up; the patient's right, or front, at the left."""
    section: npt.NDArray[Voxel] = np.take(volume, index, axis=plane.axis).T[::-1, ::-1]
    return section


def _crop(panels: Sequence[Panel], air: float) -> list[Panel]:
    """Cut away what holds neither body nor structure."""
    seen: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}  # spans by axis
    found: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}
    for panel in panels:
        structures = np.zeros(panel.pixels.shape, bool)
        for layer in panel.layers:
            for section in layer.values():
                structures |= section
        body = _body(panel.pixels > air)
        for direction, axis in enumerate(panel.plane.shown):
            margin = math.ceil(MARGIN / panel.spacing[direction])
            seen[axis].append(_span(structures | body, direction, margin))
            if structures.any():
                found[axis].append(_span(structures, direction, margin))
    box = {axis: _hull(spans) for axis, spans in seen.items()}
    if found[2]:
        box[2] = _limit(box[2], _hull(found[2]), int(TALLEST / panels[1].spacing[0]))
    cropped = []
    for panel in panels:
        window = tuple(slice(*box[axis]) for axis in panel.plane.shown)
        layers = tuple({item: section[window] for item, section in layer.items()} for layer in panel.layers)
        cropped.append(panel._replace(pixels=panel.pixels[window], layers=layers))
    return cropped


def _body(tissue: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The large pieces: not noise in the air, nor a thin table."""
    pieces, count = ndimage.label(ndimage.binary_opening(tissue, iterations=2) if min(tissue.shape) > 32 else tissue)
    if not count:
        return np.ones_like(tissue)
    sizes = np.bincount(pieces.ravel())[1:]
    body: npt.NDArray[np.bool_] = np.isin(pieces, 1 + np.flatnonzero(sizes >= sizes.max() / 10))
    return body


def _span(mask: npt.NDArray[np.bool_], direction: int, margin: int) -> tuple[int, int]:
    indices = np.flatnonzero(mask.any(axis=1 - direction))
    return max(int(indices[0]) - margin, 0), min(int(indices[-1]) + 1 + margin, mask.shape[direction])


def _hull(spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return min(start for start, _ in spans), max(stop for _, stop in spans)


def _limit(span: tuple[int, int], needed: tuple[int, int], most: int) -> tuple[int, int]:
    """At most ``most`` of a span, around what is needed, or all that is needed."""
    length = max(min(most, span[1] - span[0]), needed[1] - needed[0])
    start = (needed[0] + needed[1] - length) // 2
    start = min(max(start, span[0]), span[1] - length)
    return start, start + length
