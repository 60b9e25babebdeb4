"""Preview of a segmentation: a section in each of three planes."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from custom.utils.geometry import voxel_volume_ml
from custom.visualize.page import Cell, draw_page, volume_text
from custom.visualize.planes import Masks, choose_panels


def write_preview(
    image: npt.NDArray[np.float32],
    masks: Masks,
    affine: npt.NDArray[np.float64],
    path: str | Path,
    *,
    window: tuple[float, float],
    title: str,
    subtitle: str = "",
    note: str = "",
) -> None:
    """Draw a section in each of three planes, with structures outlined in the class colours, into a PNG.

    Args:
        image: (H, W, D) in its own unit, HU for CT.
        masks: (H, W, D) per class; empty ones are listed as not found.
        affine: voxel to world (4, 4), RAS+ in mm; any orientation, shown in the radiological convention.
        window: intensities shown as black and as white.
        title: the prompt; the subtitle has the classes understood, the note what the weights were trained on.
    """
    panels = choose_panels(image, [masks], affine, air=window[0])
    visible = {item for panel in panels for item in panel.layers[0]}
    volumes = {item: int(np.count_nonzero(mask)) * voxel_volume_ml(affine) for item, mask in masks.items()}
    legend = [
        (item, volume_text(volume) + ("" if item in visible else ", not in these planes"))
        for item, volume in volumes.items()
        if volume
    ]
    absent = ", ".join(item.name for item, volume in volumes.items() if not volume)
    draw_page(
        [[Cell(panel, panel.layers[0], panel.caption) for panel in panels]],
        path,
        window=window,
        title=title,
        subtitle=subtitle,
        legend=legend,
        note=note,
        warning=f"{'Not found' if legend else 'Nothing found. Asked for'}: {absent}" if absent else "",
    )
