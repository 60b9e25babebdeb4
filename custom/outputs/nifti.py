"""Label maps in the geometry of the image they belong to."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

#: Header fields that place a NIfTI image in space.
GEOMETRY = (
    "pixdim", "xyzt_units", "sform_code", "srow_x", "srow_y", "srow_z",
    "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
)  # fmt: skip


def write_label(label: npt.NDArray[np.unsignedinteger[Any]], path: str | Path, *, like: nib.Nifti1Image) -> None:
    """Write a label map (H, W, D) with exactly the shape of ``like`` and its place in space, field by field.

    An image may carry two affines (sform and qform) that differ, and programs that prefer the one or the other: the
    label map carries the same two.

    Raises:
        ValueError: another shape.
    """
    if label.shape != like.shape:
        raise ValueError(f"A label map must have the image's shape {like.shape}, not {label.shape}.")
    image = nib.Nifti1Image(label, like.affine, dtype=label.dtype)
    for field in GEOMETRY:
        image.header[field] = like.header[field]
    nib.save(image, str(path))
