"""Label maps on the grid of their image."""

from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt

from custom.utils.geometry import grid_corners

Voxel = TypeVar("Voxel", bound=np.generic)

#: Header fields that define the position of a NIfTI image in space.
GEOMETRY = (
    "pixdim", "xyzt_units", "sform_code", "srow_x", "srow_y", "srow_z",
    "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
)  # fmt: skip


def write_label(
    label: npt.NDArray[np.unsignedinteger[Any]],
    path: str | Path,
    *,
    like: nib.Nifti1Image,
    comment: str = "",
    slope: float | None = None,
) -> None:
    """Write a label map (H, W, D) with the shape of ``like`` and the same position in space.

    Sform and qform of an image may differ, and programs prefer one or the other: the label map gets both.

    Args:
        label: values of the voxels.
        path: the file.
        like: the image that the label map belongs to.
        comment: text for the header, which ``read_comment`` returns.
        slope: factor from stored to real values (``scl_slope``); None means 1.

    Raises:
        ValueError: another shape.
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
    """A volume with its axes ordered and directed as those of another grid of the same voxels.

    Args:
        values: (H, W, D) on the grid of ``affine``.
        affine: from voxel indices to mm.
        shape: (H', W', D') of the other grid.
        to_affine: from its voxel indices to mm.

    Raises:
        ValueError: other voxels: another number of them, or positions more than a tenth of a voxel away.
    """
    between = np.linalg.inv(to_affine) @ affine
    turn = nib.orientations.io_orientation(between)
    if not np.isnan(turn).any():
        turned = nib.orientations.apply_orientation(values, turn)
        between = between @ nib.orientations.inv_ornt_aff(turn, values.shape)
        corners = grid_corners(turned.shape)
        apart = float(np.abs(nib.affines.apply_affine(between, corners) - corners).max())
        if turned.shape == tuple(shape) and apart < 0.1:
            result: npt.NDArray[Voxel] = turned
            return result
    raise ValueError(
        f"A label map must have the voxels of its image (axes may be in another order); it has {_describe(affine)} and "
        f"shape {values.shape}, the image {_describe(to_affine)} and shape {tuple(shape)}. Resample it to the image, "
        "by nearest neighbour."
    )


def _describe(affine: npt.NDArray[np.floating[Any]]) -> str:
    sides = " x ".join(f"{side:.4g}" for side in np.linalg.norm(affine[:3, :3], axis=0))
    origin = ", ".join(f"{coordinate:.4g}" for coordinate in affine[:3, 3])
    return f"voxels of {sides} mm ({''.join(nib.aff2axcodes(affine))}) from ({origin})"
