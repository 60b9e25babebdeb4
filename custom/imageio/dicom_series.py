"""A DICOM series as a volume: slices in order, and its affine (needs the extra ``dicom``)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
from nibabel.affines import from_matvec
from pydicom.dataset import Dataset
from pydicom.pixel_data_handlers.util import apply_modality_lut
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from custom.imageio.dicom_files import NotDicom, is_image, read_header
from custom.imageio.nifti import LPS_TO_RAS, as_nifti

_GEOMETRY = ("Rows", "Columns", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")

#: What the slices of one volume share.
_SHARED = ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "Modality")


@dataclass(frozen=True)
class Series:
    """Files and headers (without pixels) of slices in order; ``affine`` goes from (column, row, slice) to mm (RAS).

    A slice of a multi-frame file has the header of its frame, with the attributes of a slice in a file of its own.
    """

    files: tuple[Path, ...]
    headers: tuple[Dataset, ...]
    affine: npt.NDArray[np.float64]
    frames: tuple[int | None, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows and slices."""
        return int(self.headers[0].Columns), int(self.headers[0].Rows), len(self.headers)

    @property
    def modality(self) -> str:
        """Modality of the header (CT, MR, ...), or an empty text."""
        return str(self.headers[0].get("Modality") or "")


class _Slice:
    """An image of a series: its file, its index in a multi-frame one, and its header."""

    def __init__(self, file: Path, header: Dataset, frame: int | None = None) -> None:
        self.file, self.header, self.frame = file, header, frame
        self.name = file.name if frame is None else f"{file.name}, frame {frame + 1}"


def read_series(folder: str | Path) -> Series:
    """Read the headers of the DICOM series in a folder, of slices in files of their own or of multi-frame files.

    Files that are no DICOM, and DICOM objects that are no images, are skipped.

    Raises:
        ValueError: no series or several; a file that should be a slice and cannot be read; slices that do not form a
            volume (fewer than two, of several patients, studies or frames of reference, colours, different sizes or
            directions, missing or duplicate positions, a tilted gantry).
    """
    slices = list(_slices(Path(folder)))
    series: dict[str, list[str]] = {}
    for one in slices:
        series.setdefault(str(one.header.get("SeriesInstanceUID")), []).append(one.name)
    if len(series) > 1:
        listed = ", ".join(f"{len(names)} such as {names[0]}" for names in list(series.values())[:5])
        raise ValueError(
            f"A folder must hold one DICOM series; {folder} holds {len(series)}: {listed}. Keep one series in a folder."
        )
    if len(slices) < 2:
        raise ValueError(f"A DICOM series must have at least two slices; {folder} holds {len(slices)}.")
    _check_alike(slices)
    slices, affine = _stack(slices)
    files, frames = (tuple(getattr(one, name) for one in slices) for name in ("file", "frame"))
    return Series(files, tuple(one.header for one in slices), LPS_TO_RAS @ affine, frames)


def _slices(folder: Path) -> Iterator[_Slice]:
    """The images of a folder; ValueError for a file that should be one and cannot be read."""
    unread: dict[Path, str] = {}
    patterns = set()
    for file in sorted(path for path in folder.iterdir() if not path.is_dir()):
        if file.name[0] == "." or file.name == "DICOMDIR":
            continue
        try:
            header = read_header(file)
            if not is_image(header):
                continue
        except NotDicom as error:
            unread[file] = str(error)
            continue
        patterns.add(_pattern(file))
        yield from _frames(file, header)
    # Notes, lists and pictures may lie beside the slices; what is named as a slice is one that was lost.
    lost = [file for file in unread if _pattern(file) in patterns or file.suffix.lower() in (".dcm", ".ima", ".dicom")]
    if lost:
        listed = ", ".join(f"{file.name} ({unread[file]})" for file in lost[:3])
        raise ValueError(
            f"Every slice of a series must be readable; {len(lost)} files of {folder} are not: {listed}. Copy the "
            "series again; or move files that are no slices elsewhere."
        )


def _pattern(file: Path) -> str:
    return re.sub(r"\d+", "0", file.name)


def _frames(file: Path, header: Dataset) -> Iterator[_Slice]:
    if "PerFrameFunctionalGroupsSequence" not in header:
        if header.get("NumberOfFrames", 1) != 1:
            raise ValueError(
                f"Each image of a series must have a position; {file.name} holds {header.NumberOfFrames} without one. "
                "Send the series as CT, one slice in a file or enhanced."
            )
        yield _Slice(file, header)
        return
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    functional_groups = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "NumberOfFrames")
    own_values = [element for element in header if element.keyword not in functional_groups]
    for index, own in enumerate(header.PerFrameFunctionalGroupsSequence):
        frame = Dataset()
        for element in own_values:
            frame.add(element)
        for groups in (shared[0], own):
            for sequence in groups:
                if sequence.VR == "SQ" and len(sequence.value) == 1:
                    frame.update(sequence.value[0])
        yield _Slice(file, frame, index)


def _check_alike(slices: Sequence[_Slice]) -> None:
    first = slices[0]
    for one in slices:
        for key in _GEOMETRY:
            if one.header.get(key) in (None, ""):
                raise ValueError(f"Each file of a series must be a slice with a position; {one.name} has no {key}.")
        if one.header.get("SamplesPerPixel", 1) != 1:
            raise ValueError(f"The pixels of a slice must be one number each, not colours; {one.name} has colours.")
        for key in _GEOMETRY:
            if key != "ImagePositionPatient" and not _same(one.header, first.header, key):
                raise ValueError(
                    f"The slices of a series must have one size and direction; {one.name} differs from {first.name} in "
                    f"its {key}. Keep one volume in a folder; leave out localizers."
                )
    for key in _SHARED:
        known = {str(one.header[key].value): one.name for one in slices if one.header.get(key)}
        if len(known) > 1:
            names = " and ".join(list(known.values())[:2])
            raise ValueError(
                f"The slices of a series must be of one patient, study and frame of reference; {names} differ in their "
                f"{key}. Keep one series in a folder; if an anonymiser has changed it slice by slice, anonymise the "
                "series as a whole."
            )


def _stack(slices: Sequence[_Slice]) -> tuple[list[_Slice], npt.NDArray[np.float64]]:
    """The slices from one end to the other, and their affine (LPS), free of the rounding of what is written."""
    first = slices[0]
    directions = np.array(first.header.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(*directions)
    skewed = float(np.abs(directions @ directions.T - np.eye(2)).max())
    unit = _unit(slices, "ImageOrientationPatient")
    turned = min(2 * unit, 0.02) if skewed > 1e-6 else 0.0  # by the rounding of the cosines, where there is any
    if skewed > max(1e-3, 2 * turned):
        raise ValueError(
            f"Rows and columns of a slice must be at right angles; {first.name} has the ImageOrientationPatient "
            f"{directions.ravel().tolist()}. Convert it again from its source."
        )
    ordered = sorted(slices, key=lambda one: float(np.dot(normal, one.header.ImagePositionPatient)))
    positions = np.array([one.header.ImagePositionPatient for one in ordered], float)
    index = np.arange(len(ordered)) - (len(ordered) - 1) / 2
    step = index @ positions / (index @ index)  # of the straight line nearest to all positions
    length = float(np.linalg.norm(step))
    off = positions - positions.mean(0) - index[:, None] * step
    apart = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    unit = _unit(slices, "ImagePositionPatient")
    rounded = unit if unit < 0.6 * length else 0.0
    if not (np.abs(off).max() < max(0.1 * length, 0.6 * rounded) and np.ptp(apart) < max(0.2 * length, 1.01 * rounded)):
        raise ValueError(
            f"The slices of a series must be equally far apart; these are {apart.min():.4g} to {apart.max():.4g} mm, "
            f"with positions given to {unit:g} mm. Some are missing or duplicate, or there are several volumes: send "
            "one complete volume as a series."
        )
    rows_apart, columns_apart = (float(value) for value in first.header.PixelSpacing)
    shift = (len(ordered) - 1) * (step - np.dot(step, normal) * normal)
    by_rounding = (len(ordered) - 1) * length * turned + rounded
    if np.linalg.norm(shift) > max(0.1 * min(rows_apart, columns_apart), by_rounding):  # programs disagree about shears
        raise ValueError(
            "The slices of a series must be stacked at right angles; these are shifted, as by a tilted gantry, "
            f"by {np.linalg.norm(shift):.3g} mm from the first to the last. Resample the series to a straight volume."
        )
    left, _, right = np.linalg.svd(np.stack([*directions, step / length], axis=1))  # the nearest orthogonal axes
    origin = positions.mean(0) + index[0] * step
    return ordered, from_matvec(left @ right * (columns_apart, rows_apart, length), origin)


def _same(one: Dataset, other: Dataset, key: str) -> bool:
    values, others = (np.array(header[key].value, float) for header in (one, other))
    unit = 2 * min(_decimals(one, key), 1e-3) if key == "ImageOrientationPatient" else 0
    return values.shape == others.shape and bool(np.allclose(values, others, rtol=0, atol=max(1e-4, unit)))


def _unit(slices: Sequence[_Slice], key: str) -> float:
    """The finest unit in which the numbers of an attribute are written: 0.01 for "1.25", "2.5"."""
    return min(_decimals(one.header, key) for one in slices)


def _decimals(header: Dataset, key: str) -> float:
    exponents = [0]
    for value in header[key].value:
        try:
            number = Decimal(str(getattr(value, "original_string", value)).strip())
            exponents.append(int(number.normalize().as_tuple().exponent))  # "5.0" is no finer than "5"
        except (InvalidOperation, ValueError):
            continue
    return 10.0 ** min(exponents)


def read_pixels(series: Series) -> npt.NDArray[np.float32]:
    """Read the voxels (columns, rows, slices) in the unit of the modality (HU), each slice by its own header.

    ``PhotometricInterpretation`` says how to display the numbers, and changes none.

    Raises:
        ValueError: pixels that are damaged, cut short, or compressed in an unknown way.
    """
    voxels = np.empty(series.shape, np.float32, order="F")
    frames: npt.NDArray[Any] = np.empty(0)
    opened: Path | None = None
    for at, (file, header, frame) in enumerate(zip(series.files, series.headers, series.frames, strict=True)):
        if file != opened:
            frames, opened = _stored(file), file
        voxels[:, :, at] = _rescaled(frames if frame is None else frames[frame], header, file).T
    return voxels


def _stored(file: Path) -> npt.NDArray[Any]:
    """The numbers that a file stores, ([frames,] rows, columns)."""
    try:
        dataset = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            implicit = dataset.is_implicit_VR
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        values: npt.NDArray[Any] = dataset.pixel_array
        if values.dtype.kind == "f":
            return values
        # Older files keep overlays in the unused bits; shifting back extends the sign.
        above = int(dataset.BitsAllocated) - 1 - int(dataset.HighBit)
        return values << above >> int(dataset.BitsAllocated) - int(dataset.BitsStored)
    except MemoryError:
        raise
    except Exception as error:  # whatever bytes make pydicom and the decoders raise
        raise ValueError(f"The pixels of {file} cannot be read: {error}. Copy or download it again.") from error


def _rescaled(stored: npt.NDArray[Any], header: Dataset, file: Path) -> npt.NDArray[Any]:
    if "ModalityLUTSequence" in header:
        values = np.asarray(apply_modality_lut(stored, header)).astype(np.int64)
        is_signed = header.ModalityLUTSequence[0].get("ModalityLUTType") == "HU"  # for which the standard has no sign
        return np.where(values > 32767, values - 65536, values) if is_signed else values
    slope, intercept = (header.get(key) for key in ("RescaleSlope", "RescaleIntercept"))
    factor = 1.0 if slope in (None, "") else float(slope)
    if not factor:
        raise ValueError(f"RescaleSlope must not be 0, as it is in {file}. Convert it again from its source.")
    return np.asarray(stored * factor + float(intercept or 0))


def series_to_nifti(series: Series, path: str | Path) -> None:
    """Write the volume, in the unit of its modality (HU), as NIfTI; errors are those of ``read_pixels``."""
    nib.save(as_nifti(read_pixels(series), series.affine, path), str(path))
