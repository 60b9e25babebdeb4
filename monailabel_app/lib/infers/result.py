"""The result of segmenting one image: masks, the report for clients, and the label map they receive."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import nrrd
import numpy as np

from custom.anatomy.class_set import AnatomicalClass, ClassSet
from custom.imageio.nifti import LPS_TO_RAS, write_label
from custom.inferers.result import Mask
from custom.utils.geometry import voxel_volume_ml
from lib.temporary import temporary_file


class InferResult(NamedTuple):
    """The segmentation of one image.

    Args:
        masks: (H, W, D) per structure, keyed by its class with the structure's title for a name, in the order of the
            class set, in which a later one (a tumour) overwrites an earlier (its organ).
        image: the image they lie on.
        report: for clients, JSON.
    """

    masks: Mapping[AnatomicalClass, Mask]
    image: nib.Nifti1Image
    report: dict[str, Any]


def describe_segments(
    masks: Mapping[AnatomicalClass, Mask], image: nib.Nifti1Image, class_set: ClassSet
) -> list[dict[str, Any]]:
    """One row per structure: ``value`` in the map, name, title, colour and volume."""
    rows = []
    for value, (item, mask) in enumerate(masks.items(), start=1):
        name = {"value": value, "name": class_set[item.index].name, "title": item.name, "color": list(item.color)}
        voxels = int(mask.sum())
        rows.append(name | {"voxels": voxels, "volume_ml": round(voxels * voxel_volume_ml(image.affine), 3)})
    return rows


def write_label_map(result: InferResult, extension: str, *, compress: bool = True) -> Path:
    """Write one label map (uint8, in the image's geometry) to a temporary file; values as in ``label_names``."""
    merged = np.zeros(result.image.shape, np.uint8)
    for value, mask in enumerate(result.masks.values(), start=1):
        merged[mask] = value
    with temporary_file(extension) as path:
        if extension != ".nrrd":
            write_label(merged, path, like=result.image)
            return path
        affine = LPS_TO_RAS @ result.image.affine  # to LPS, which every NRRD reader knows
        position = {"space directions": affine[:3, :3].T, "space origin": affine[:3, 3], "kinds": ["domain"] * 3}
        encoding = {"encoding": "gzip" if compress else "raw"}
        nrrd.write(str(path), merged, {"space": "left-posterior-superior", **position, **encoding})
        return path
