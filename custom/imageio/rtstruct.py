"""Structures as contours on the slices of their series: a DICOM RT Structure Set (needs the extra ``dicom``).

Written with pydicom, as rt-utils 1.2.7 misplaces contours of non-square pixels, writes holes as separate contours, and
draws contours through the centres of pixels, so that structures shrink by half a pixel.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from custom.anatomy.class_set import AnatomicalClass
from custom.imageio.contours import polygons
from custom.imageio.dicom_files import patient_and_study
from custom.imageio.dicom_seg import RESEARCH_USE, clean_text, concept, describe_structure
from custom.imageio.dicom_series import Series
from custom.imageio.nifti import onto_grid
from custom.utils.files import atomic_write
from custom.utils.masks import bounding_box

_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"  # retired, but required here


def write_rtstruct(
    masks: Mapping[AnatomicalClass, npt.NDArray[np.bool_]],
    path: str | Path,
    *,
    affine: npt.NDArray[np.floating[Any]],
    series: Series,
    model_name: str,
    model_version: str,
    trained_on: str = "",
) -> None:
    """Write masks as one RT Structure Set, atomically; only UIDs and the time differ between runs.

    A structure is a ROI with name, colour and SNOMED CT code; empty masks are left out. Its contours are in the slices
    of the series and contain the centres of its voxels and no others (``custom.imageio.contours``); points are rounded
    to 0.0001 mm. Masks are read one at a time.

    Arguments and errors are those of ``custom.imageio.dicom_seg.write_dicom_seg``.
    """
    dataset = _structure_set(series, model_name=model_name, model_version=model_version)
    for item, mask in masks.items():
        on_series = onto_grid(mask, affine, shape=series.shape, to_affine=series.affine)
        if contours := list(_contours(on_series, series)):
            _add(dataset, item, contours, description=describe_structure(item, trained_on))
    if not dataset.StructureSetROISequence:
        rule = "A structure set must have at least one voxel; of the requested structures"
        raise ValueError(f"{rule} ({', '.join(item.name for item in masks)}) none was found. Nothing was written.")
    with atomic_write(path) as temporary:
        dataset.save_as(str(temporary), write_like_original=False)


def _contours(mask: npt.NDArray[np.bool_], series: Series) -> Iterator[Dataset]:
    """The contours of a mask (columns, rows, slices), each with a reference to its slice."""
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
    """A structure set of a series, without structures."""
    header, now = series.headers[0], datetime.now()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian  # an explicit one limits a contour to 64 KiB of text
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, True
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    for key, value in patient_and_study(header).items():
        setattr(dataset, key, value)
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


def _add(dataset: FileDataset, item: AnatomicalClass, contours: list[Dataset], *, description: str) -> None:
    number = len(dataset.StructureSetROISequence) + 1
    roi, drawn, observed = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName = number, clean_text(item.name)
    roi.ReferencedFrameOfReferenceUID = dataset.FrameOfReferenceUID
    roi.ROIDescription = description
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, list(item.color)
    for contour_number, contour in enumerate(contours, start=1):
        contour.ContourNumber = contour_number
    drawn.ContourSequence = contours
    observed.ObservationNumber = observed.ReferencedROINumber = number
    observed.RTROIInterpretedType = "ORGAN" if item.category == AnatomicalClass.category else ""
    observed.ROIInterpreter = ""
    observed.RTROIIdentificationCodeSequence = [concept(item.snomed)]
    dataset.StructureSetROISequence.append(roi)
    dataset.ROIContourSequence.append(drawn)
    dataset.RTROIObservationsSequence.append(observed)
