"""A DICOM series of slices as one volume: its slices in order, and where they lie."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from custom.outputs.nifti import onto_grid

#: From the patient's left and back, as DICOM and ITK count, to right and front, as NIfTI does; and back.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_PLACE = ("SeriesInstanceUID", "Rows", "Columns", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")


@dataclass(frozen=True)
class Series:
    """Slices in the order of their places, whatever their names and numbers.

    Args:
        files: one a slice.
        headers: of each file, without its pixels.
        affine: from (column, row, slice) to mm (RAS).
    """

    files: tuple[Path, ...]
    headers: tuple[Dataset, ...]
    affine: npt.NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of columns, rows and slices."""
        return int(self.headers[0].Columns), int(self.headers[0].Rows), len(self.headers)


def read_series(folder: str | Path) -> Series:
    """Read the headers of the DICOM series in a folder; what is no DICOM is passed over.

    Raises:
        ValueError: no series or several; slices that are no volume (fewer than two, several images in one file, other
            sizes or directions, a place missing or taken twice).
    """
    found = []
    for file in sorted(path for path in Path(folder).iterdir() if path.is_file()):
        try:
            found.append((file, pydicom.dcmread(file, stop_before_pixels=True)))
        except InvalidDicomError:
            continue
    if len(found) < 2:
        raise ValueError(f"A DICOM series must have at least two slices; {folder} holds {len(found)}.")
    first = found[0][1]
    for file, header in found:
        for key in _PLACE:
            if not header.get(key):
                raise ValueError(f"Each file of a series must be a slice with a place; {file.name} has no {key}.")
        if header.get("NumberOfFrames", 1) != 1:
            raise ValueError(
                f"Each file of a series must be one slice; {file.name} holds {header.NumberOfFrames}. Send the series "
                "as classic (not enhanced) CT."
            )
        if any(not _same(header[key].value, first[key].value) for key in _PLACE if key != "ImagePositionPatient"):
            raise ValueError(
                f"The slices of a series must have one size, direction and SeriesInstanceUID; {file.name} differs from "
                f"{found[0][0].name}. Keep one series in a folder; leave out localizers."
            )
    across, down = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    found.sort(key=lambda pair: float(np.dot(np.cross(across, down), pair[1].ImagePositionPatient)))
    positions = np.array([header.ImagePositionPatient for _, header in found], float)
    step = (positions[-1] - positions[0]) / (len(found) - 1)
    apart = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    straight = positions[0] + np.arange(len(found))[:, None] * step
    if not np.abs(positions - straight).max() < 0.1 * np.linalg.norm(step):
        raise ValueError(
            f"The slices of a series must be equally far apart; these are {apart.min():.4g} to {apart.max():.4g} mm. "
            "Some are missing or doubled, or there are several volumes: send one whole volume as a series."
        )
    affine = np.eye(4)
    affine[:3, 0] = across * float(first.PixelSpacing[1])
    affine[:3, 1] = down * float(first.PixelSpacing[0])
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    return Series(tuple(file for file, _ in found), tuple(header for _, header in found), LPS_TO_RAS @ affine)


def _same(one: object, other: object) -> bool:
    if isinstance(one, str):
        return one == other
    return bool(np.allclose(np.array(one, float), np.array(other, float), atol=1e-4))


def series_to_nifti(series: Series, path: str | Path) -> None:
    """Write the volume, in the unit of its modality (HU), as NIfTI.

    Raises:
        ValueError: pixels that cannot be read; slices that are shifted against each other (a tilted gantry), which
            NIfTI programs disagree about.
    """
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in series.files])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(f"The pixels of {series.files[0].parent} cannot be read: {error}") from error
    try:
        onto_grid(np.empty(image.GetSize(), bool), itk_affine(image), shape=series.shape, to_affine=series.affine)
    except ValueError as error:
        raise ValueError(
            "The slices of a series must lie straight above each other; these are shifted, as by a tilted gantry. "
            "Resample the series to a straight volume first."
        ) from error
    sitk.WriteImage(image, str(path))


def itk_affine(image: sitk.Image) -> npt.NDArray[np.float64]:
    """Return the affine of an ITK image, from its indices to mm (RAS)."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine
