"""A picture people can judge a segmentation by."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from custom.anatomy import AnatomicalClass

#: Planes: title, axis cut (RAS), letters at left, right, top and bottom as radiologists look at them.
PLANES = (
    ("axial", 2, "R", "L", "A", "P"),
    ("coronal", 1, "R", "L", "S", "I"),
    ("sagittal", 0, "A", "P", "S", "I"),
)

#: Displayed intensities in HU, the usual abdominal soft-tissue window.
WINDOW = (-160, 240)


def write_preview(
    image: npt.NDArray[np.float32],
    masks: Mapping[AnatomicalClass, npt.NDArray[np.bool_]],
    affine: npt.NDArray[np.float64],
    path: str | Path,
    *,
    title: str,
) -> None:
    """Draw three planes through the largest structure, with contours in the class colours, into a PNG.

    Args:
        image: (H, W, D) in HU.
        masks: (H, W, D) per class; empty ones appear in the legend as not found.
        affine: voxel to world (4, 4), RAS+ in mm; any orientation, drawn in the radiological convention.
        path: file to write.
        title: the prompt.
    """
    to_ras = nib.io_orientation(affine)
    image = nib.apply_orientation(image, to_ras)
    spacing = nib.affines.voxel_sizes(affine)[to_ras[:, 0].argsort()]
    turned = {item: nib.apply_orientation(mask, to_ras) for item, mask in masks.items()}
    largest = max(turned.values(), key=np.count_nonzero)
    if largest.any():
        centre = [int(np.median(np.nonzero(largest)[axis])) for axis in range(3)]
    else:
        centre = [side // 2 for side in image.shape]
    figure = Figure(figsize=(15, 5.6), facecolor="black")
    for column, (name, axis, left, right, top, bottom) in enumerate(PLANES):
        panel = figure.add_axes((0.005 + column * 0.333, 0.12, 0.323, 0.78))
        panel.set_facecolor("black")
        shown = _cut(image, axis, centre[axis])
        row, col = [spacing[i] for i in (2, 1, 0) if i != axis]
        panel.imshow(shown, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], aspect=row / col, interpolation="bilinear")
        for item, mask in turned.items():
            section = _cut(mask, axis, centre[axis])
            if section.any():
                color = np.array(item.color) / 255
                panel.contour(section, levels=[0.5], colors=[color], linewidths=1.6)
                overlay = np.zeros((*section.shape, 4))
                overlay[section] = (*color, 0.25)
                panel.imshow(overlay, aspect=row / col, interpolation="nearest")
        for letter, x, y in ((left, 0.02, 0.5), (right, 0.98, 0.5), (top, 0.5, 0.97), (bottom, 0.5, 0.03)):
            panel.text(x, y, letter, color="white", ha="center", va="center", transform=panel.transAxes, fontsize=12)
        panel.set_title(name, color="white", fontsize=11)
        panel.axis("off")
    figure.suptitle(title if len(title) <= 120 else f"{title[:117]}...", color="white", fontsize=13, parse_math=False)
    handles = [
        Line2D([], [], color=np.array(item.color) / 255, lw=3, label=item.name + ("" if mask.any() else " (not found)"))
        for item, mask in turned.items()
    ]
    rows = -(-len(handles) // 8)
    figure.legend(
        handles=handles, loc="lower center", ncols=-(-len(handles) // rows), labelcolor="white", frameon=False
    )
    with matplotlib.rc_context({"savefig.facecolor": "black"}):
        figure.savefig(str(path), dpi=100)


def _cut(volume: npt.NDArray[np.generic], axis: int, index: int) -> npt.NDArray[np.generic]:
    """Section of a RAS volume as an image: superior or anterior up; the patient's right, or front, at the left."""
    section = np.take(volume, index, axis=axis).T[::-1]
    return section[:, ::-1]
