"""NIfTI images of voxels in space, and label maps on the grid of their image."""

from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt

from custom.utils.geometry import grid_corners

Voxel = TypeVar("Voxel", bound=np.generic)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from the axes of DICOM and ITK to those of NIfTI, and back

#: Header fields that define the position of a NIfTI image in space.
GEOMETRY = (
    "pixdim", "xyzt_units", "sform_code", "srow_x", "srow_y", "srow_z",
    "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
)  # fmt: skip


def as_nifti(voxels: Any, affine: npt.NDArray[np.floating[Any]], path: str | Path) -> nib.Nifti1Image:
    """An image of voxels (H, W, D), named ``path``, with an invertible affine to mm (RAS) as its sform and qform."""
    if not np.linalg.det(affine):  # nibabel cannot write such a header
        raise ValueError(f"The affine of {path} must be invertible, not {affine.tolist()}. Convert it again.")
    image = nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    if not np.allclose(image.get_qform(), affine, atol=1e-3):  # sheared, which a qform cannot express
        image.header["qform_code"] = 0
    image.header.set_xyzt_units("mm")
    image.file_map["image"].filename = str(path)
    return image


def write_label(
    label: npt.NDArray[np.unsignedinteger[Any]],
    path: str | Path,
    *,
    like: nib.Nifti1Image,
    comment: str = "",
    slope: float | None = None,
) -> None:
    """Write a label map (H, W, D) with the position in space of the image ``like``, whose shape it must have.

    Sform and qform of an image may differ, and programs prefer one or the other: the label map gets both. ``comment``
    is for ``read_comment``, ``slope`` the factor from stored to real values (``scl_slope``; None means 1).
    """
    if label.shape != like.shape:
        raise ValueError(f"A label map must have the image's shape {like.shape}, not {label.shape}.")
    image = nib.Nifti1Image(label, like.affine, dtype=label.dtype)
    for field in GEOMETRY:
        image.header[field] = like.header[field]
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    if comment:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", comment.encode()))
    nib.save(image, str(path))


def read_comment(path: str | Path) -> str:
    """The comment in the header of a NIfTI file that ``write_label`` wrote; empty if there is none."""
    comments = [item for item in nib.load(str(path)).header.extensions if item.get_code() == 6]
    return bytes(comments[0].get_content()).rstrip(b"\0").decode() if comments else ""


def onto_grid(
    values: npt.NDArray[Voxel],
    affine: npt.NDArray[np.floating[Any]],
    *,
    shape: tuple[int, ...],
    to_affine: npt.NDArray[np.floating[Any]],
) -> npt.NDArray[Voxel]:
    """A volume (H, W, D) with its axes ordered and directed as those of another grid of the same voxels.

    ``affine`` goes from its voxel indices to mm, ``to_affine`` from those of the other grid (H', W', D') = ``shape``.

    Raises:
        ValueError: other voxels: another number of them, or positions more than a tenth of a voxel away.
    """
    between = np.linalg.inv(to_affine) @ affine
    turn = nib.orientations.io_orientation(between)
    if not np.isnan(turn).any():
        turned: npt.NDArray[Voxel] = nib.orientations.apply_orientation(values, turn)
        between = between @ nib.orientations.inv_ornt_aff(turn, values.shape)
        corners = grid_corners(turned.shape)
        apart = float(np.abs(nib.affines.apply_affine(between, corners) - corners).max())
        if turned.shape == tuple(shape) and apart < 0.1:
            return turned
    raise ValueError(
        f"A label map must have the voxels of its image (axes may be in another order); it has {_describe(affine)} and "
        f"shape {values.shape}, the image {_describe(to_affine)} and shape {tuple(shape)}. Resample it to the image, "
        "by nearest neighbour."
    )


def _describe(affine: npt.NDArray[np.floating[Any]]) -> str:
    sides = " x ".join(f"{side:.4g}" for side in np.linalg.norm(affine[:3, :3], axis=0))
    origin = ", ".join(f"{coordinate:.4g}" for coordinate in affine[:3, 3])
    return f"voxels of {sides} mm ({''.join(nib.aff2axcodes(affine))}) from ({origin})"
