"""MetaImage volumes (.mha, .mhd), read by ITK (needs the extra ``dicom``)."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813
from nibabel.affines import from_matvec

from custom.imageio.nifti import LPS_TO_RAS

#: Names of what places an image in space; ITK would silently take the axes and the origin of the scanner instead.
_POSITION = {
    "TransformMatrix": ("transformmatrix", "rotation", "orientation"),
    "Offset": ("offset", "position", "origin"),
    "ElementSpacing": ("elementspacing", "elementsize"),
}


def read_information(path: Path) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Shape (H, W, D) and affine to mm (RAS) of a volume, without its voxels; ValueError where it has no position."""
    keys = set()
    with path.open("rb") as stream:
        for line in iter(lambda: stream.readline(4096), b""):
            key = line.partition(b"=")[0].strip().lower().decode("latin-1")
            keys.add(key)
            if key == "elementdatafile":
                break
    if missing := [name for name, names in _POSITION.items() if not keys & set(names)]:
        raise ValueError(
            f"{path} has no position in space, so left and right are unknown: a MetaImage header must have "
            f"{', '.join(missing)}. Export it again from its source."
        )
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(f"{path} must be a MetaImage file, and cannot be read as one: {error}") from error
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        received = f"{path} has {reader.GetDimension()} axes and {reader.GetNumberOfComponents()} numbers a voxel"
        raise ValueError(f"An image must be 3D (H, W, D), one number a voxel; {received}: take one volume.")
    return tuple(reader.GetSize()), itk_affine(reader)


def read_voxels(path: Path) -> npt.NDArray[Any]:
    """The voxels (H, W, D); ValueError for a damaged file."""
    try:
        values: npt.NDArray[Any] = sitk.GetArrayFromImage(_reader(path).Execute()).transpose()
    except RuntimeError as error:
        raise ValueError(f"{path} is damaged or cut short: {error}. Copy or convert it again.") from error
    return values


def itk_affine(image: sitk.Image | sitk.ImageFileReader) -> npt.NDArray[np.float64]:
    """The affine of an ITK image, from its indices to mm (RAS)."""
    matrix = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return np.asarray(LPS_TO_RAS @ from_matvec(matrix, image.GetOrigin()))


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    return reader
