"""Choice of the sections that show a volume's structures best, and their pixels."""

import math
from collections.abc import Iterator, Mapping, Sequence
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

#: Least area of the largest structure in a section, relative to its widest; the first that shows most structures wins.
FRACTIONS = (0.8, 0.5, 0.2)

#: Weight of a structure in the choice of a section, once an earlier plane shows it.
SHOWN_WEIGHT = 0.25

#: Margin around body and structures, in mm.
MARGIN = 8

#: Longest extent shown from head to foot, in mm, unless the structures reach farther.
TALLEST = 480


class Plane(NamedTuple):
    """A viewing plane: name, axis cut (RAS), letters at the left, right, top and bottom edge (radiological)."""

    name: str
    axis: int
    letters: str

    @property
    def shown(self) -> tuple[int, int]:
        """The axes (RAS) that run along rows and columns: down and across."""
        down, across = (axis for axis in (2, 1, 0) if axis != self.axis)
        return down, across


PLANES = (
    Plane("axial", 2, "RLAP"),
    Plane("coronal", 1, "RLSI"),
    Plane("sagittal", 0, "APSI"),
)


class Panel(NamedTuple):
    """A section in one plane.

    Attributes:
        plane: its orientation.
        position: of the section's centre: "S 214 mm" is 214 mm above the scanner's origin.
        pixels: the image (rows, columns).
        layers: sections of the structures that it meets, for each layer of masks.
        spacing: between rows and between columns, in mm.
    """

    plane: Plane
    position: str
    pixels: npt.NDArray[np.float32]
    layers: tuple[Sections, ...]
    spacing: tuple[float, float]

    @property
    def caption(self) -> str:
        """Plane and position."""
        return f"{self.plane.name}  {self.position}"


class _Reoriented(Masks):
    """The non-empty ones of some masks in another orientation, reoriented on lookup to save memory."""

    def __init__(self, masks: Masks, orientation: npt.NDArray[np.float64]) -> None:
        self.masks = masks
        self.orientation = orientation
        self.present = [item for item, mask in masks.items() if mask.any()]

    def __len__(self) -> int:
        return len(self.present)

    def __iter__(self) -> Iterator[AnatomicalClass]:
        return iter(self.present)

    def __getitem__(self, item: AnatomicalClass) -> Mask:
        mask: Mask = nib.apply_orientation(self.masks[item], self.orientation)
        return mask


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
    reoriented = [_Reoriented(masks, to_ras) for masks in layers]
    cuts = choose_cuts(next(filter(len, reoriented), {}), volume.shape)
    sizes = voxel_sizes(matrix)
    panels = []
    for plane, index in zip(PLANES, cuts, strict=True):
        centre = [index if axis == plane.axis else (volume.shape[axis] - 1) / 2 for axis in range(3)]
        panels.append(
            Panel(
                plane,
                _position(plane, apply_affine(matrix, centre)),
                _cut(volume, plane, index),
                tuple(
                    {item: cut for item, mask in masks.items() if (cut := _cut(mask, plane, index)).any()}
                    for masks in reoriented
                ),
                (float(sizes[plane.shown[0]]), float(sizes[plane.shown[1]])),
            )
        )
    return _crop(panels, air)


def choose_cuts(masks: Masks, shape: Sequence[int]) -> list[int]:
    """Index of the section in each of ``PLANES``, for non-empty masks (H, W, D) in RAS."""
    if not masks:
        return [shape[plane.axis] // 2 for plane in PLANES]
    areas = {
        item: [np.count_nonzero(mask, axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
        for item, mask in masks.items()
    }
    largest = max(areas, key=lambda item: int(areas[item][0].sum()))
    best: list[int] = []
    most = 0
    for fraction in FRACTIONS:
        cuts: list[int] = []
        shown: set[AnatomicalClass] = set()
        for plane in PLANES:
            profiles = {item: profile[plane.axis] for item, profile in areas.items()}
            worth = sum(
                profile / profile.max() * (SHOWN_WEIGHT if item in shown else 1) for item, profile in profiles.items()
            )
            own = profiles[largest]
            worth = np.where(own >= fraction * own.max(), worth, 0.0)
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
    """Section of a RAS volume as an image: superior or anterior at the top, right or anterior at the left."""
    section: npt.NDArray[Voxel] = np.take(volume, index, axis=plane.axis).T[::-1, ::-1]
    return section


def _crop(panels: Sequence[Panel], air: float) -> list[Panel]:
    """Crop to one box around body and structures."""
    spans: dict[int, list[slice]] = {0: [], 1: [], 2: []}  # of body and structures, by axis
    needed: dict[int, list[slice]] = {0: [], 1: [], 2: []}  # of structures
    for panel in panels:
        sections = [section for layer in panel.layers for section in layer.values()]
        structures = np.any([np.zeros(panel.pixels.shape, bool), *sections], axis=0)
        visible = structures | _body(panel.pixels > air)
        for direction, axis in enumerate(panel.plane.shown):
            margin = math.ceil(MARGIN / panel.spacing[direction])
            spans[axis].append(bounding_box(visible, margin)[direction])
            if sections:
                needed[axis].append(bounding_box(structures, margin)[direction])
    box = {axis: _hull(slices) for axis, slices in spans.items()}
    if needed[2]:
        box[2] = _limit(box[2], _hull(needed[2]), int(TALLEST / panels[1].spacing[0]))
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
    start = (needed[0] + needed[1] - length) // 2
    start = min(max(start, span[0]), span[1] - length)
    return start, start + length
