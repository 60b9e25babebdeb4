"""Label maps in the geometry of the image they belong to."""

from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt


def write_label(label: npt.NDArray[np.unsignedinteger], path: str | Path, *, like: nib.Nifti1Image) -> None:
    """Write a label map (H, W, D) with exactly the shape and affine of ``like``, codes and units included.

    Raises:
        ValueError: another shape.
    """
    if label.shape != like.shape:
        raise ValueError(f"A label map must have the image's shape {like.shape}, not {label.shape}.")
    image = nib.Nifti1Image(label, like.affine, dtype=label.dtype)
    image.set_sform(like.affine, code=int(like.header["sform_code"]) or 2)
    image.set_qform(like.affine, code=int(like.header["qform_code"]))
    image.header.set_xyzt_units(*like.header.get_xyzt_units())
    nib.save(image, str(path))
