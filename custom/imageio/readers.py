"""Volumes of every format that inference reads, as NIfTI images: NIfTI, NRRD, MetaImage, a folder with a DICOM series.

Opening reads headers only. NRRD is read by pynrrd, as ITK silently replaces missing directions and origins by defaults.
DICOM and MetaImage need the extra ``dicom``, which is imported once one is opened.
"""

import errno
import gzip
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import numpy.typing as npt

from custom.imageio.nifti import as_nifti
from custom.utils.memory import check_available

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr")  # the last with an .img beside it
NRRD_SUFFIXES = (".nrrd", ".nhdr")
META_SUFFIXES = (".mha", ".mhd")
SUFFIXES = NIFTI_SUFFIXES + NRRD_SUFFIXES + META_SUFFIXES

#: Headers whose voxels lie in a file beside them.
DETACHED_SUFFIXES = (".nhdr", ".hdr", ".mhd")

#: Segmentations, which lie beside their image in a folder of 3D Slicer's.
SEGMENTATION_SUFFIXES = (".seg.nrrd", ".seg.nhdr")

#: Signs from the axes of an NRRD space to RAS.
_TO_RAS = {
    ("right-anterior-superior", "ras"): (1.0, 1.0, 1.0),
    ("left-anterior-superior", "las"): (-1.0, 1.0, 1.0),
    ("left-posterior-superior", "lps"): (-1.0, -1.0, 1.0),
}


def is_volume_file(path: Path) -> bool:
    """Whether a file has the name of a volume (``SUFFIXES``) and not of a segmentation."""
    name = path.name.lower()
    return path.is_file() and name.endswith(SUFFIXES) and not name.endswith(SEGMENTATION_SUFFIXES) and name[0] != "."


def is_series_folder(path: Path) -> bool:
    """Whether a folder has DICOM images, whatever their names."""
    return path.is_dir() and any(_is_dicom_image(file) for file in sorted(path.iterdir()))


def open_volume(path: str | Path) -> nib.Nifti1Image:
    """Open a volume without its voxels: a NIfTI, NRRD or MetaImage file, or a folder with one DICOM series.

    Its affine goes from voxel indices, for DICOM (columns, rows, slices), to mm (RAS+).

    Raises:
        ValueError: a file that is not in the format of its suffix; an NRRD or MetaImage file without a position in
            space; a folder that ``custom.imageio.dicom_series.read_series`` refuses, or the extra ``dicom`` is missing.
    """
    path = Path(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"The names of an image and its folders must be UTF-8; that of {str(path)!a} is not. Rename it, for "
            "example with convmv."
        ) from None
    if path.is_dir():
        return _open_series(path)
    if path.name.lower().endswith(NRRD_SUFFIXES):
        return _open_nrrd(path)
    return _open_metaimage(path) if path.name.lower().endswith(META_SUFFIXES) else open_nifti(path)


def open_nifti(path: str | Path) -> nib.Nifti1Pair:
    """Open a NIfTI file, compressed or not whatever its suffix, without its voxels; .hdr stands for .hdr and .img.

    A fourth axis of length one is left out.

    Raises:
        ValueError: another format, or voxels of size 0 with no sform to tell it.
    """
    path = Path(path)
    try:
        with _stream(path) as stream:
            if isinstance(stream, gzip.GzipFile) == path.name.lower().endswith(".gz"):
                image = nib.load(path)
            else:  # nibabel goes by the suffix
                is_second = isinstance(stored_header(path), nib.Nifti2Header)
                image = (nib.Nifti2Image if is_second else nib.Nifti1Image).from_stream(stream)
                image.file_map["image"] = nib.FileHolder(str(path))
    except Exception as error:  # whatever bytes make nibabel and gzip raise
        raise ValueError(f"{path} must be a NIfTI file, and cannot be read as one: {error}") from error
    if not isinstance(image, nib.Nifti1Pair):
        raise ValueError(f"{path} must be a NIfTI file, not {type(image).__name__}. Convert it.")
    sides = stored_header(path)["pixdim"][1:4]
    if not (np.isfinite(sides) & (sides != 0)).all():  # nibabel would take them for 1 mm
        if int(image.header["sform_code"]) == 0:
            raise ValueError(f"{path} must have voxels of a size, not {sides.tolist()} mm (pixdim). Convert it again.")
        image.set_qform(image.affine, int(image.header["qform_code"]))
    if len(image.shape) > 3 and set(image.shape[3:]) == {1}:
        file_map = image.file_map
        image = type(image)(image.dataobj.reshape(image.shape[:3]), image.affine, image.header)
        image.file_map = file_map
    image.extra["affine_source"] = "sform" if int(image.header["sform_code"]) else "qform"
    return image


def stored_header(path: Path) -> nib.Nifti1Header:
    """The header of a NIfTI file as it is stored: nibabel mends some values when it opens one."""
    with _stream(path) as stream:
        size = stream.read(4)
        kind = (
            nib.Nifti2Header
            if 540 in (int.from_bytes(size, order) for order in ("little", "big"))
            else nib.Nifti1Header
        )
        return kind(size + stream.read(kind.sizeof_hdr - 4), check=False)


def _stream(path: Path) -> Any:
    """A file's content, decompressed if it is compressed."""
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else path.open("rb")


def read_voxels(image: nib.Nifti1Pair) -> npt.NDArray[Any]:
    """Read all voxels (H, W, D) of an opened volume, a compressed file to its checksum.

    Raises:
        ValueError: damaged, cut short, or longer than its header says.
        NotEnoughMemory: before anything is read, for more voxels than memory holds as float32 beside the stored ones.
    """
    path = Path(image.file_map["image"].filename)
    voxels = math.prod(map(int, image.shape))
    itemsize = image.get_data_dtype().itemsize
    check_available(voxels * (4 + itemsize), f"the voxels of {path}, {image.shape}", remedy="Crop the image, close")
    if isinstance(image.dataobj, _Voxels):
        return np.asarray(image.dataobj)
    needed = int(image.dataobj.offset) + voxels * itemsize
    try:
        with _stream(path) as stream:
            if not isinstance(stream, gzip.GzipFile) and path.stat().st_size < needed:
                received = f"{path.stat().st_size} bytes of {needed}"
                raise ValueError(f"{path} is cut short: {received}. Copy or convert it again.")
            if not isinstance(stream, gzip.GzipFile) and path.stat().st_size > needed:
                raise _too_long(path)
            if "header" in image.file_map:  # in a file of its own
                return np.asanyarray(image.dataobj)
            values: npt.NDArray[Any] = np.asanyarray(type(image).from_stream(stream).dataobj).reshape(image.shape)
            if stream.read(1):  # which also reads to the checksum
                raise _too_long(path)
        return values
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise MemoryError(error.strerror) from error
        raise ValueError(f"{path} is damaged or cut short: {error}. Copy or convert it again.") from error


def _too_long(path: Path) -> ValueError:
    return ValueError(
        f"{path} is damaged: it goes on after the voxels that its header announces. Copy or convert it again."
    )


@contextmanager
def needing_extra_dicom(what: str) -> Iterator[None]:
    """Turn an ImportError into a ValueError with the advice to install the extra ``dicom``."""
    try:
        yield
    except ImportError as error:
        raise ValueError(f'{what} needs the extra "dicom": pip install "deep-film[dicom]" ({error}).') from error


@dataclass(frozen=True)
class _Voxels:
    """Array proxy, as nibabel names it, of voxels (H, W, D), float32: reads them whenever they are needed."""

    shape: tuple[int, ...]
    read: Callable[[], npt.NDArray[Any]]
    is_proxy = True
    ndim = 3
    dtype = np.dtype(np.float32)

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self.read().astype(dtype or self.dtype, copy=False)

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(self)[index]


def _is_dicom_image(file: Path) -> bool:
    if not file.is_file() or file.name[0] == "." or file.name == "DICOMDIR":
        return False
    with file.open("rb") as stream:
        beginning = stream.read(132)
    if beginning[128:] != b"DICM" and beginning[:2] not in (b"\x02\x00", b"\x08\x00"):  # without a preamble
        return False
    try:
        from custom.imageio.dicom_files import NotDicom, is_image, read_header
    except ImportError:
        return beginning[128:] == b"DICM"  # opening it names the extra that is missing
    try:
        return is_image(read_header(file))
    except NotDicom:
        return False
    except ValueError:
        return True  # opening it names what is damaged


def _open_series(folder: Path) -> nib.Nifti1Image:
    with needing_extra_dicom(f"Reading the DICOM series {folder}"):
        from custom.imageio.dicom_series import read_pixels, read_series
    series = read_series(folder)
    image = as_nifti(_Voxels(series.shape, lambda: read_pixels(series)), series.affine, folder)
    image.extra["Modality"] = series.modality
    return image


def _open_metaimage(path: Path) -> nib.Nifti1Image:
    with needing_extra_dicom(f"Reading {path}"):
        from custom.imageio import metaimage
    shape, affine = metaimage.read_information(path)
    return as_nifti(_Voxels(shape, lambda: metaimage.read_voxels(path)), affine, path)


def _open_nrrd(path: Path) -> nib.Nifti1Image:
    try:
        header = nrrd.read_header(str(path))
        sizes = tuple(int(size) for size in header["sizes"])
    except Exception as error:  # whatever bytes make pynrrd raise
        raise ValueError(f"{path} must be an NRRD file, and cannot be read as one: {error}") from error
    if len(sizes) != 3:
        raise ValueError(f"An image must be 3D (H, W, D); {path} has shape {sizes}: take one volume.")
    return as_nifti(_Voxels(sizes, lambda: _read_nrrd(path, sizes)), _nrrd_affine(header, path), path)


def _nrrd_affine(header: dict[str, Any], path: Path) -> npt.NDArray[np.float64]:
    space = str(header.get("space", "none"))
    flips = next((signs for names, signs in _TO_RAS.items() if space.lower() in names), None)
    directions, origin = (np.asarray(header.get(f"space {key}", ()), float) for key in ("directions", "origin"))
    known = directions.shape == (3, 3) and origin.shape == (3,)
    if flips is None or not known or not np.isfinite([*directions.flat, *origin]).all():
        raise ValueError(
            f"{path} has no position in space, so left and right are unknown: an NRRD header must have "
            "`space` (left-posterior-superior, right-anterior-superior or left-anterior-superior; here it is "
            f"{space}), `space directions` of three axes and `space origin`. Export it again from its source."
        )
    if units := set(map(str, header.get("space units", ()))) - {"mm", ""}:
        raise ValueError(f"{path} must be in mm; its `space units` are {', '.join(sorted(units))}. Convert it.")
    return np.asarray(np.diag([*flips, 1.0]) @ nib.affines.from_matvec(directions.T, origin))


def _read_nrrd(path: Path, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        values: npt.NDArray[Any] = nrrd.read(str(path))[0]
        if values.shape != shape:
            raise ValueError(f"its voxels have shape {values.shape}, but its header {shape}")
    except MemoryError:
        raise
    except Exception as error:  # whatever bytes make pynrrd raise
        raise ValueError(f"{path} is damaged or cut short: {error}. Copy or convert it again.") from error
    return values
