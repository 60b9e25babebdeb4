"""What a file is: a DICOM image, another DICOM object, or none (needs the extra ``dicom``)."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # its warnings would contain patients' data

#: Begin of a file without preamble: the group of its meta information, or of its first attributes.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")


class NotDicom(ValueError):
    """A file that is no DICOM file, or has lost its beginning; says why."""


def read_header(file: Path) -> Dataset:
    """The attributes of a DICOM file without its pixels; its preamble may be missing.

    Raises:
        NotDicom: a link that leads nowhere, an empty or unreadable file, another format.
        ValueError: a damaged DICOM file.
    """
    try:
        with file.open("rb") as stream:
            beginning = stream.read(132)
    except FileNotFoundError:
        raise NotDicom(f"a link to {file.readlink()}, which is missing") from None
    except OSError as error:
        raise NotDicom(str(error.strerror)) from error
    if not beginning:
        raise NotDicom("empty")
    if beginning[128:] != b"DICM" and beginning[:2] not in _FIRST_GROUPS:
        raise NotDicom("no DICOM file, or cut short")
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        has_size = "Rows" in header and "Columns" in header
        known = has_size or "SOPClassUID" in header or "MediaStorageSOPClassUID" in header.file_meta
        if not known or (is_image(header) and not has_size):
            raise ValueError("its header is cut short")
    except Exception as error:  # whatever bytes make pydicom raise
        if beginning[128:] != b"DICM":
            raise NotDicom("no DICOM file, or cut short") from error
        raise ValueError(f"{file} is a damaged DICOM file: {error}. Copy it again.") from error
    return header


def is_image(header: Dataset) -> bool:
    """Whether a DICOM object is an image, and neither made from one (a segmentation, a dose) nor without pixels."""
    name = UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID"))).name
    return "Image Storage" in name or ("Storage" not in name and "Rows" in header)


#: Attributes of patient and study that an object made from a series repeats, empty where they are unknown.
PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber", "FrameOfReferenceUID", "PositionReferenceIndicator",
)  # fmt: skip


def patient_and_study(header: Dataset) -> dict[str, Any]:
    """``PATIENT_AND_STUDY`` of a header; what is no date, time or sex by the standard is left empty."""
    values = {key: header.get(key) or "" for key in PATIENT_AND_STUDY}
    for key in ("PatientBirthDate", "StudyDate"):
        values[key] = values[key] if _is_date(str(values[key])) else ""
    if not re.fullmatch(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", str(values["StudyTime"])):
        values["StudyTime"] = ""
    if values["PatientSex"] not in ("M", "F", "O"):
        values["PatientSex"] = ""
    return values


def _is_date(text: str) -> bool:
    try:
        return bool(re.fullmatch(r"\d{8}", text)) and datetime.strptime(text, "%Y%m%d").year > 0
    except ValueError:
        return False
