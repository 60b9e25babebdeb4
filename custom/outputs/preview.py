"""A picture people can judge a segmentation by."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import matplotlib
import nibabel as nib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from nibabel.affines import voxel_sizes

from custom.anatomy import AnatomicalClass

Voxel = TypeVar("Voxel", bound=np.generic)

#: Displayed intensities in HU, the usual abdominal soft-tissue window.
WINDOW = (-160, 240)

#: What a structure counts in the choice of a section, once an earlier plane shows it.
SHOWN_WEIGHT = 0.25

LEGEND_COLUMNS = 6


class Plane(NamedTuple):
    """A viewing plane: name, axis cut (RAS), letters at the edges as radiologists look at them."""

    name: str
    axis: int
    left: str
    right: str
    top: str
    bottom: str


PLANES = (
    Plane("axial", 2, "R", "L", "A", "P"),
    Plane("coronal", 1, "R", "L", "S", "I"),
    Plane("sagittal", 0, "A", "P", "S", "I"),
)


class Panel(NamedTuple):
    """What one plane shows: pixels of the image, of each structure found there, and row over column spacing."""

    plane: Plane
    pixels: npt.NDArray[np.float32]
    sections: dict[AnatomicalClass, npt.NDArray[np.bool_]]
    aspect: float


def write_preview(
    image: npt.NDArray[np.float32],
    masks: Mapping[AnatomicalClass, npt.NDArray[np.bool_]],
    affine: npt.NDArray[np.float64],
    path: str | Path,
    *,
    title: str,
) -> None:
    """Draw a section in each of three planes, with structures outlined in the class colours, into a PNG.

    Args:
        image: (H, W, D) in HU.
        masks: (H, W, D) per class; the legend lists empty ones as not found.
        affine: voxel to world (4, 4), RAS+ in mm; any orientation, drawn in the radiological convention.
        path: file to write.
        title: the prompt.
    """
    panels = choose_panels(image, masks, affine)
    found = [item for item, mask in masks.items() if mask.any()]
    absent = [item.name for item in masks if item not in found]
    below = 0.25 * (-(-len(found) // LEGEND_COLUMNS) + bool(absent)) + 0.25  # inches under the pictures
    height = 5.6 + below
    figure = Figure(figsize=(15, height), facecolor="black")
    for column, panel in enumerate(panels):
        _draw(panel, figure.add_axes((0.005 + column * 0.333, below / height, 0.323, 4.85 / height)))
    figure.suptitle(_shorten(title, 120), color="white", fontsize=13, y=1 - 0.12 / height, va="top", parse_math=False)
    visible = {item for panel in panels for item in panel.sections}
    handles = [
        Patch(
            facecolor=(*_rgb(item), 0.45),
            edgecolor=_rgb(item),
            linewidth=1.6,
            label=item.name if item in visible else f"{item.name} (elsewhere)",
        )
        for item in found
    ]
    if handles:
        figure.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, (0.1 + 0.25 * bool(absent)) / height),
            ncols=min(len(handles), LEGEND_COLUMNS),
            labelcolor="white",
            frameon=False,
            fontsize=10,
            borderpad=0,
            labelspacing=0.6,
        )
    if absent:
        text = _shorten(f"Not found: {', '.join(absent)}", 190)
        figure.text(0.5, 0.12 / height, text, color="#ffb000", ha="center", va="bottom", fontsize=10)
    with matplotlib.rc_context({"savefig.facecolor": "black"}):
        figure.savefig(str(path), dpi=100, format="png")


def choose_panels(
    image: npt.NDArray[np.float32],
    masks: Mapping[AnatomicalClass, npt.NDArray[np.bool_]],
    affine: npt.NDArray[np.float64],
) -> list[Panel]:
    """Cut each plane where it shows most of the structures, first those that no earlier plane shows.

    Every structure counts by its area over its largest area in that plane, so that a small tumour weighs as much as
    the liver. Without any structure the cuts go through the middle. Arguments as for ``write_preview``.
    """
    to_ras = nib.io_orientation(affine)
    volume = nib.apply_orientation(image, to_ras)
    turned = {item: nib.apply_orientation(mask, to_ras) for item, mask in masks.items() if mask.any()}
    spacing = voxel_sizes(affine)[to_ras[:, 0].argsort()]
    panels: list[Panel] = []
    for plane in PLANES:
        shown = {item for panel in panels for item in panel.sections}
        index = _most_telling(turned, plane.axis, shown) if turned else volume.shape[plane.axis] // 2
        cuts = {item: _cut(mask, plane.axis, index) for item, mask in turned.items()}
        row, column = (spacing[axis] for axis in (2, 1, 0) if axis != plane.axis)
        panels.append(
            Panel(
                plane,
                _cut(volume, plane.axis, index),
                {item: cut for item, cut in cuts.items() if cut.any()},
                float(row / column),
            )
        )
    return panels


def _most_telling(
    masks: Mapping[AnatomicalClass, npt.NDArray[np.bool_]], axis: int, shown: set[AnatomicalClass]
) -> int:
    worth: npt.NDArray[np.float64] = np.zeros(next(iter(masks.values())).shape[axis])
    for item, mask in masks.items():
        areas = np.count_nonzero(mask, axis=tuple({0, 1, 2} - {axis}))
        worth += areas / areas.max() * (SHOWN_WEIGHT if item in shown else 1)
    best: Sequence[int] = np.flatnonzero(worth >= worth.max() - 1e-9).tolist()
    return best[len(best) // 2]


def _draw(panel: Panel, axes: Axes) -> None:
    height, width = panel.pixels.shape
    axes.imshow(
        panel.pixels, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], aspect=panel.aspect, interpolation="bilinear"
    )
    for item, section in panel.sections.items():
        overlay = np.zeros((height, width, 4))
        overlay[section] = (*_rgb(item), 0.25)
        axes.imshow(overlay, aspect=panel.aspect, interpolation="nearest")
    for item, section in panel.sections.items():  # outlines last: a tumour's over its organ's colour
        around = np.pad(section, 1).astype(np.float32)  # a structure at the edge is outlined there too
        columns, rows = np.arange(-1, width + 1), np.arange(-1, height + 1)
        axes.contour(columns, rows, around, levels=[0.5], colors=[_rgb(item)], linewidths=1.6)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    left, right, top, bottom = panel.plane[2:]
    for letter, x, y in ((left, 0.03, 0.5), (right, 0.97, 0.5), (top, 0.5, 0.97), (bottom, 0.5, 0.03)):
        axes.text(
            x,
            y,
            letter,
            color="white",
            ha="center",
            va="center",
            transform=axes.transAxes,
            fontsize=13,
            fontweight="bold",
            path_effects=[withStroke(linewidth=3, foreground="black")],
        )
    axes.set_title(panel.plane.name, color="white", fontsize=11)
    axes.axis("off")


def _cut(volume: npt.NDArray[Voxel], axis: int, index: int) -> npt.NDArray[Voxel]:
    """Section of a RAS volume as an image: superior or anterior up; the patient's right, or front, at the left."""
    section: npt.NDArray[Voxel] = np.take(volume, index, axis=axis).T[::-1, ::-1]
    return section


def _rgb(item: AnatomicalClass) -> tuple[float, float, float]:
    red, green, blue = item.color
    return red / 255, green / 255, blue / 255


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
