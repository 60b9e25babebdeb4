"""Figures of one mask on one image."""

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.affines import apply_affine

from custom.utils.geometry import voxel_volume_ml


def measure(
    mask: npt.NDArray[np.bool_], image: npt.NDArray[np.floating[Any]], affine: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """Measure a mask (H, W, D) on an image (H, W, D) with its voxel-to-world ``affine`` (4, 4), RAS+ in mm.

    Returns:
        ``voxels``; ``volume_ml``; ``mean_hu`` and ``sd_hu`` (the image's own unit, None when empty);
        ``bounding_box_mm``: {"min": [x, y, z], "max": [x, y, z]}, the outer faces of the outermost voxels (None when
        empty).
    """
    voxels = int(mask.sum())
    volume = voxels * voxel_volume_ml(affine)
    result: dict[str, Any] = {"voxels": voxels, "volume_ml": round(volume, 4)}
    if not voxels:
        return result | {"mean_hu": None, "sd_hu": None, "bounding_box_mm": None}
    values = image[mask]
    spans = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    corners = np.array(list(product(*[(span[0] - 0.5, span[-1] + 0.5) for span in spans])))
    world = apply_affine(affine, corners)
    return result | {
        "mean_hu": round(float(values.mean(dtype=np.float64)), 2),
        "sd_hu": round(float(values.std(dtype=np.float64)), 2),
        "bounding_box_mm": {"min": world.min(0).round(3).tolist(), "max": world.max(0).round(3).tolist()},
    }
