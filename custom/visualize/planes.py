"""Choice of the sections that show a volume's structures best, and their pixels."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from custom.anatomy.class_set import AnatomicalClass
from custom.utils.masks import Mask, bounding_box

Voxel = TypeVar("Voxel", bound=np.generic)
Masks = Mapping[AnatomicalClass, Mask]
Sections = dict[AnatomicalClass, Mask]
Areas = list[npt.NDArray[np.int_]]

#: Least area of the largest structure in a section, relative to its widest; the first that shows most structures wins.
FRACTIONS = (0.8, 0.5, 0.2)

#: Weight of a structure in the choice of a section, once an earlier plane shows it.
SHOWN_WEIGHT = 0.25

#: Margin around body and structures, in mm.
MARGIN = 8

#: Longest extent shown from head to foot, in mm, unless the structures reach farther.
TALLEST = 480


class Plane(NamedTuple):
    """A plane: name, axis cut (RAS), axes shown down and across; letters left, right, top, bottom (radiological)."""

    name: str
    axis: int
    shown: tuple[int, int]
    letters: str


PLANES = (Plane("axial", 2, (1, 0), "RLAP"), Plane("coronal", 1, (2, 0), "RLSI"), Plane("sagittal", 0, (2, 1), "APSI"))


class Panel(NamedTuple):
    """A section in one plane: the image's ``pixels`` (rows, columns), ``spacing`` in mm between rows and columns.

    ``caption`` says where its centre is: "axial  S 214 mm" is 214 mm above the scanner's origin. ``layers`` are the
    sections of the structures that it meets, for each layer of masks.
    """

    plane: Plane
    caption: str
    pixels: npt.NDArray[np.float32]
    layers: tuple[Sections, ...]
    spacing: tuple[float, float]


def choose_panels(
    image: npt.NDArray[np.float32], layers: Sequence[Masks], affine: npt.NDArray[np.float64], *, air: float
) -> list[Panel]:
    """Sections in three planes through the largest structure, where most of the others are visible too.

    In each plane the largest structure keeps ``FRACTIONS[0]`` of its widest area, less only where that shows more
    structures. Among those sections every structure counts by its area relative to its widest, so that a small tumour
    weighs as much as the liver, and less once an earlier plane shows it. Without structures the sections are central.
    All three are cropped to one box around the body.

    Args:
        image: (H, W, D).
        layers: masks (H, W, D) per class, e.g. truth and prediction. The first non-empty layer decides.
        affine: voxel to world (4, 4), RAS+ in mm; any orientation, shown in the radiological convention.
        air: highest intensity outside the body.
    """
    to_ras = nib.io_orientation(affine)
    volume = nib.apply_orientation(image, to_ras)
    matrix = affine @ nib.orientations.inv_ornt_aff(to_ras, image.shape)
    areas = [
        {item: section_areas(nib.apply_orientation(mask, to_ras)) for item, mask in masks.items() if mask.any()}
        for masks in layers
    ]
    sizes = voxel_sizes(matrix).tolist()
    panels = []
    for plane, index in zip(PLANES, choose_cuts(next(filter(None, areas), {}), volume.shape), strict=True):
        centre = [index if axis == plane.axis else (volume.shape[axis] - 1) / 2 for axis in range(3)]
        millimetres = round(float(apply_affine(matrix, centre)[plane.axis]))
        caption = f"{plane.name}  {('LR', 'PA', 'IS')[plane.axis][millimetres >= 0]} {abs(millimetres)} mm"
        sections = tuple(  # masks may be made when they are looked up: one takes memory at a time
            {
                item: _cut(nib.apply_orientation(masks[item], to_ras), plane, index)
                for item, area in found.items()
                if area[plane.axis][index]
            }
            for masks, found in zip(layers, areas, strict=True)
        )
        down, across = plane.shown
        panels.append(Panel(plane, caption, _cut(volume, plane, index), sections, (sizes[down], sizes[across])))
    return _crop(panels, air)


def section_areas(mask: Mask) -> Areas:
    """Voxels of a mask (H, W, D) in each of the sections along each axis."""
    return [np.count_nonzero(mask, axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]


def choose_cuts(structures: Mapping[AnatomicalClass, Areas], shape: Sequence[int]) -> list[int]:
    """Index of the section in each of ``PLANES`` of a volume in RAS, from the ``section_areas`` of non-empty masks."""
    if not structures:
        return [shape[plane.axis] // 2 for plane in PLANES]
    largest = max(structures, key=lambda item: int(structures[item][0].sum()))
    best: list[int] = []
    most = 0
    for fraction in FRACTIONS:
        cuts: list[int] = []
        shown: set[AnatomicalClass] = set()
        for plane in PLANES:
            areas = {item: own[plane.axis] for item, own in structures.items()}
            worth = sum(area / area.max() * (SHOWN_WEIGHT if item in shown else 1) for item, area in areas.items())
            worth = np.where(areas[largest] >= fraction * areas[largest].max(), worth, 0.0)
            equal = np.flatnonzero(worth >= worth.max() - 1e-9)
            cuts.append(int(equal[len(equal) // 2]))
            shown |= {item for item, area in areas.items() if area[cuts[-1]]}
        if len(shown) > most:
            best, most = cuts, len(shown)
    return best


def _cut(volume: npt.NDArray[Voxel], plane: Plane, index: int) -> npt.NDArray[Voxel]:
    """Section of a RAS volume as an image: superior or anterior at the top, right or anterior at the left."""
    section: npt.NDArray[Voxel] = np.take(volume, index, axis=plane.axis).T[::-1, ::-1]
    return section


def _crop(panels: Sequence[Panel], air: float) -> list[Panel]:
    """Crop to one box around body and structures."""
    spans: dict[int, list[slice]] = {0: [], 1: [], 2: []}  # of body and structures, by axis
    needed: list[slice] = []  # of structures, from foot to head
    for panel in panels:
        sections = [section for layer in panel.layers for section in layer.values()]
        structures = np.any([np.zeros(panel.pixels.shape, bool), *sections], axis=0)
        visible = structures | _body(panel.pixels > air)
        for direction, axis in enumerate(panel.plane.shown):
            margin = math.ceil(MARGIN / panel.spacing[direction])
            spans[axis].append(bounding_box(visible, margin)[direction])
            if sections and axis == 2:
                needed.append(bounding_box(structures, margin)[direction])
    box = {axis: _hull(slices) for axis, slices in spans.items()}
    if needed:
        box[2] = _limit(box[2], _hull(needed), int(TALLEST / panels[1].spacing[0]))
    cropped = []
    for panel in panels:
        window = tuple(slice(*box[axis]) for axis in panel.plane.shown)
        layers = tuple({item: section[window] for item, section in layer.items()} for layer in panel.layers)
        cropped.append(panel._replace(pixels=panel.pixels[window], layers=layers))
    return cropped


def _body(tissue: Mask) -> Mask:
    """The large components: neither noise in the air nor a thin table."""
    pieces, count = ndimage.label(ndimage.binary_opening(tissue, iterations=2) if min(tissue.shape) > 32 else tissue)
    if not count:
        return np.ones_like(tissue)
    sizes = np.bincount(pieces.ravel())[1:]
    body: Mask = np.isin(pieces, 1 + np.flatnonzero(sizes >= sizes.max() / 10))
    return body


def _hull(slices: Sequence[slice]) -> tuple[int, int]:
    return min(part.start for part in slices), max(part.stop for part in slices)


def _limit(span: tuple[int, int], needed: tuple[int, int], most: int) -> tuple[int, int]:
    """At most ``most`` of a span around what is needed, or all that is needed."""
    length = max(min(most, span[1] - span[0]), needed[1] - needed[0])
    start = min(max((needed[0] + needed[1] - length) // 2, span[0]), span[1] - length)
    return start, start + length
