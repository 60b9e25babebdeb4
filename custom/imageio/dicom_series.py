"""A DICOM series as a volume: slices in order, and its affine (needs the extra ``dicom``)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk  # noqa: N813
from nibabel.affines import from_matvec
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from custom.imageio.nifti import as_nifti

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from the axes of DICOM and ITK to those of NIfTI, and back

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # its warnings would contain patients' data

_GEOMETRY = ("Rows", "Columns", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")


@dataclass(frozen=True)
class Series:
    """Files and headers (without pixels) of slices in order; ``affine`` goes from (column, row, slice) to mm (RAS)."""

    files: tuple[Path, ...]
    headers: tuple[Dataset, ...]
    affine: npt.NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows and slices."""
        return int(self.headers[0].Columns), int(self.headers[0].Rows), len(self.headers)


def read_series(folder: str | Path) -> Series:
    """Read the headers of the DICOM series in a folder; files that are not images are skipped.

    Raises:
        ValueError: no series or several; slices that do not form a volume (fewer than two, several images in one file,
            different sizes or directions, missing or duplicate positions, a tilted gantry).
    """
    found = [pair for file in sorted(Path(folder).iterdir()) if file.is_file() for pair in _image_header(file)]
    for file, header in found:
        if header.get("NumberOfFrames", 1) != 1 or "SharedFunctionalGroupsSequence" in header:
            rule = f"Each file of a series must be one slice; {file.name} holds {header.get('NumberOfFrames', 1)}"
            raise ValueError(f"{rule}. Send the series as classic (not enhanced) CT.")
    series: dict[str, list[str]] = {}
    for file, header in found:
        series.setdefault(str(header.get("SeriesInstanceUID")), []).append(file.name)
    if len(series) > 1:
        listed = ", ".join(f"{len(names)} files such as {names[0]}" for names in list(series.values())[:5])
        raise ValueError(
            f"A folder must hold one DICOM series; {folder} holds {len(series)}: {listed}. Keep one series in a folder."
        )
    if len(found) < 2:
        raise ValueError(f"A DICOM series must have at least two slices; {folder} holds {len(found)}.")
    first = found[0][1]
    for file, header in found:
        for key in _GEOMETRY:
            if header.get(key) in (None, ""):
                raise ValueError(f"Each file of a series must be a slice with a position; {file.name} has no {key}.")
        if any(not _same(header[key].value, first[key].value) for key in _GEOMETRY if key != "ImagePositionPatient"):
            received = f"{file.name} differs from {found[0][0].name}"
            rule = f"The slices of a series must have one size and direction; {received}"
            raise ValueError(f"{rule}. Keep one volume in a folder; leave out localizers.")
    across, down = directions = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(across, down)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=1e-3):
        received = f"{found[0][0].name} has the ImageOrientationPatient {[*across, *down]}"
        rule = f"Rows and columns of a slice must be at right angles; {received}"
        raise ValueError(f"{rule}. Convert it again from its source.")
    found.sort(key=lambda pair: float(np.dot(normal, pair[1].ImagePositionPatient)))
    positions = np.array([header.ImagePositionPatient for _, header in found], float)
    step = (positions[-1] - positions[0]) / (len(found) - 1)
    apart = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    straight = positions[0] + np.arange(len(found))[:, None] * step
    if not np.abs(positions - straight).max() < 0.1 * np.linalg.norm(step):
        raise ValueError(
            f"The slices of a series must be equally far apart; these are {apart.min():.4g} to {apart.max():.4g} mm. "
            "Some are missing or duplicate, or there are several volumes: send one complete volume as a series."
        )
    rows_apart, columns_apart = (float(value) for value in first.PixelSpacing)
    shift = (len(found) - 1) * (step - np.dot(step, normal) * normal)
    if np.linalg.norm(shift) > 0.1 * min(rows_apart, columns_apart):  # NIfTI programs disagree about sheared volumes
        raise ValueError(
            "The slices of a series must be stacked at right angles; these are shifted, as by a tilted gantry, "
            f"by {np.linalg.norm(shift):.3g} mm from the first to the last. Resample the series to a straight volume."
        )
    affine = from_matvec(np.stack([across * columns_apart, down * rows_apart, step], axis=1), positions[0])
    return Series(tuple(file for file, _ in found), tuple(header for _, header in found), LPS_TO_RAS @ affine)


def _image_header(file: Path) -> Iterator[tuple[Path, Dataset]]:
    """The header of a DICOM file of one or several images, unless it is a segmentation, which is no slice."""
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        is_image = "Rows" in header and header.get("Modality") != "SEG"
    except InvalidDicomError:
        return
    except Exception as error:  # whatever bytes make pydicom raise
        raise ValueError(f"{file} is a damaged DICOM file: {error}. Copy it again.") from error
    if is_image:
        yield file, header


def _same(one: Any, other: Any) -> bool:
    return bool(np.allclose(np.array(one, float), np.array(other, float), atol=1e-4))


def read_pixels(series: Series) -> npt.NDArray[Any]:
    """Read the voxels (columns, rows, slices) in the unit of the modality (HU); ValueError if unreadable or colours."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in series.files])
    if len({(header.get("RescaleSlope"), header.get("RescaleIntercept")) for header in series.headers}) > 1:
        reader.SetOutputPixelType(sitk.sitkFloat32)  # else the first slice decides whether values are integers
    try:
        values: npt.NDArray[Any] = sitk.GetArrayFromImage(reader.Execute()).transpose()
    except RuntimeError as error:
        raise ValueError(f"The pixels of {series.files[0].parent} cannot be read: {error}") from error
    if values.shape != series.shape:
        raise ValueError(f"The pixels of {series.files[0].parent} must be one number each, not colours.")
    return values


def series_to_nifti(series: Series, path: str | Path) -> None:
    """Write the volume, in the unit of its modality (HU), as NIfTI; errors are those of ``read_pixels``."""
    nib.save(as_nifti(read_pixels(series), series.affine, path), str(path))


def itk_affine(image: sitk.Image) -> npt.NDArray[np.float64]:
    """The affine of an ITK image, from its indices to mm (RAS)."""
    matrix = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return np.asarray(LPS_TO_RAS @ from_matvec(matrix, image.GetOrigin()))
