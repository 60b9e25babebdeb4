"""The result of segmenting one image: masks, the report for clients, and the label map they receive."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import nrrd
import numpy as np
import numpy.typing as npt

from custom.anatomy.class_set import AnatomicalClass, ClassSet
from custom.imageio.nifti import write_label
from custom.utils.geometry import voxel_volume_ml
from lib.temporary import temporary_file

Mask = npt.NDArray[np.bool_]


class InferResult(NamedTuple):
    """The segmentation of one image.

    Args:
        masks: (H, W, D) per structure, keyed by its class with the structure's title for a name.
        image: the image they lie on.
        report: for clients, JSON.
    """

    masks: Mapping[AnatomicalClass, Mask]
    image: nib.Nifti1Image
    report: dict[str, Any]


def in_order(masks: Mapping[AnatomicalClass, Mask]) -> list[AnatomicalClass]:
    """Structures in the order of the class set, in which a later one (a tumour) overwrites an earlier (its organ)."""
    return sorted(masks, key=lambda item: item.index)


def describe_segments(
    masks: Mapping[AnatomicalClass, Mask], image: nib.Nifti1Image, class_set: ClassSet
) -> list[dict[str, Any]]:
    """One row per structure in the order of the class set: ``value`` in the map, name, title, colour and volume."""
    voxel_ml = voxel_volume_ml(image.affine)
    rows = []
    for value, item in enumerate(in_order(masks), start=1):
        voxels = int(masks[item].sum())
        rows.append(
            {
                "value": value,
                "name": class_set[item.index].name,
                "title": item.name,
                "color": list(item.color),
                "voxels": voxels,
                "volume_ml": round(voxels * voxel_ml, 3),
            }
        )
    return rows


def write_label_map(result: InferResult, extension: str, *, compress: bool = True) -> Path:
    """Write one label map (uint8, in the image's geometry) to a temporary file; values as in ``label_names``."""
    merged = np.zeros(result.image.shape, np.uint8)
    for value, item in enumerate(in_order(result.masks), start=1):
        merged[result.masks[item]] = value
    with temporary_file(extension) as path:
        if extension != ".nrrd":
            write_label(merged, path, like=result.image)
            return path
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ result.image.affine  # RAS to LPS, which every NRRD reader knows
        header = {
            "space": "left-posterior-superior",
            "space directions": affine[:3, :3].T,
            "space origin": affine[:3, 3],
            "kinds": ["domain"] * 3,
            "encoding": "gzip" if compress else "raw",
        }
        nrrd.write(str(path), merged, header)
        return path
