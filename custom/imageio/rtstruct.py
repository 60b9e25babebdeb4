"""Structures as contours on the slices of the series they were found in: a DICOM RT Structure Set (extra ``dicom``).

Written with pydicom, not with rt-utils 1.2.7, which exchanges the two pixel spacings, so that contours of pixels that
are not square lie elsewhere; takes holes as contours of their own, or cuts channels two pixels wide to them; and runs
contours through the centres of pixels, so that structures shrink by half a pixel and one pixel becomes one point.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from custom.anatomy.class_set import AnatomicalClass, Code
from custom.imageio.contours import polygons
from custom.imageio.dicom_codes import RESEARCH_USE, clean_text, concept
from custom.imageio.dicom_series import Series, read_series
from custom.imageio.nifti import onto_grid
from custom.utils.files import atomic_write
from custom.utils.masks import bounding_box

#: What the structure set tells of patient and study as the series does; what is missing there is empty.
_FROM_SERIES = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber", "FrameOfReferenceUID", "PositionReferenceIndicator",
)  # fmt: skip
_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"  # retired, and still what this field must hold
_ORGAN = AnatomicalClass.category  # the category of a class that is no lesion


def write_rtstruct(
    masks: Mapping[AnatomicalClass, npt.NDArray[np.bool_]],
    path: str | Path,
    *,
    affine: npt.NDArray[np.floating[Any]],
    series_dir: str | Path,
    model_name: str,
    model_version: str,
) -> None:
    """Write masks as one RT Structure Set, whole or not at all; only UIDs and the time differ between runs.

    A structure is a ROI with name, colour and SNOMED CT code; empty masks are left out. Its contours lie in the slices
    of the series and hold the centres of its voxels, and no others (``custom.imageio.contours``); points are rounded
    to 0.0001 mm. Masks are looked at one at a time.

    Args:
        masks: class (its ``name`` becomes the ROI's) -> (H, W, D).
        path: the file to write.
        affine: from voxel indices to mm (RAS), as in NIfTI.
        series_dir: folder of the DICOM series whose voxels these are, in any order of slices and axes.
        model_name: what found the structures.
        model_version: its version.

    Raises:
        ValueError: all masks empty; no readable series; masks that do not have the voxels of the series.
    """
    series = read_series(series_dir)
    dataset = _structure_set(series, model_name=model_name, model_version=model_version)
    for item, mask in masks.items():
        turned = onto_grid(mask, affine, shape=series.shape, to_affine=series.affine)
        if contours := list(_contours(turned, series)):
            _add(dataset, item, contours)
    if not dataset.StructureSetROISequence:
        raise ValueError(
            "A structure set must have at least one voxel; of what was asked for ("
            f"{', '.join(item.name for item in masks)}) nothing was found. Nothing was written."
        )
    with atomic_write(path) as temporary:
        dataset.save_as(str(temporary), write_like_original=False)


def _contours(mask: npt.NDArray[np.bool_], series: Series) -> Iterator[Dataset]:
    """The contours of a mask (columns, rows, slices), each of them with the slice that it lies in."""
    box = bounding_box(mask)
    corner = np.array([box[0].start, box[1].start])
    for index, section in enumerate(np.ascontiguousarray(mask[box].transpose(2, 1, 0)), start=box[2].start):
        header = series.headers[index]
        across, down = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        steps = np.stack([across * float(header.PixelSpacing[1]), down * float(header.PixelSpacing[0])])
        for polygon in polygons(section):
            points = (polygon + corner) @ steps + np.array(header.ImagePositionPatient, float)
            contour = Dataset()
            contour.ContourImageSequence = [_reference(header)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = points.ravel().round(4).tolist()
            yield contour


def _reference(header: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return reference


def _structure_set(series: Series, *, model_name: str, model_version: str) -> FileDataset:
    """A structure set of a series, still without structures."""
    header, now = series.headers[0], datetime.now()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian  # an explicit one limits a contour to 64 KiB of text
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, True
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    for key in _FROM_SERIES:
        setattr(dataset, key, header.get(key) or "")
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = "RTSTRUCT", generate_uid(), 301
    dataset.SeriesDescription = f"{RESEARCH_USE}: contours"
    dataset.OperatorsName, dataset.InstanceNumber = "", 1
    dataset.Manufacturer, dataset.ManufacturerModelName = "Deep FiLM", clean_text(model_name)
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = clean_text(model_version), "0"
    dataset.StructureSetLabel, dataset.StructureSetDescription = "SEGMENTATION", RESEARCH_USE
    dataset.StructureSetDate, dataset.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.ApprovalStatus = "UNAPPROVED"
    referenced, study, frame = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = header.SeriesInstanceUID
    referenced.ContourImageSequence = [_reference(one) for one in series.headers]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _DETACHED_STUDY, header.StudyInstanceUID
    study.RTReferencedSeriesSequence = [referenced]
    frame.FrameOfReferenceUID = header.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence = [], [], []
    return dataset


def _add(dataset: FileDataset, item: AnatomicalClass, contours: list[Dataset]) -> None:
    number = len(dataset.StructureSetROISequence) + 1
    roi, drawn, observed = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName = number, clean_text(item.name)
    roi.ReferencedFrameOfReferenceUID = dataset.FrameOfReferenceUID
    roi.ROIDescription = clean_text(f"{item.name}. {RESEARCH_USE}.", 1024)
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, list(item.color)
    for contour_number, contour in enumerate(contours, start=1):
        contour.ContourNumber = contour_number
    drawn.ContourSequence = contours
    observed.ObservationNumber = observed.ReferencedROINumber = number
    observed.RTROIInterpretedType = "ORGAN" if item.category == _ORGAN else ""
    observed.ROIInterpreter = ""
    observed.RTROIIdentificationCodeSequence = [_coded(item.snomed)]
    dataset.StructureSetROISequence.append(roi)
    dataset.ROIContourSequence.append(drawn)
    dataset.RTROIObservationsSequence.append(observed)


def _coded(code: Code) -> Dataset:
    coded = Dataset()
    coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = concept(code)[:3]
    return coded
