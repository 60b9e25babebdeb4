"""A NIfTI volume as a DICOM series: real pydicom files, in any orientation and order of slices."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_series(image: Path, folder: Path, *, patient: str = "PHANTOM", axes: str = "LPS") -> list[Path]:
    """Write a NIfTI volume in HU as a CT series, one file a slice.

    Args:
        image: of any orientation, oblique too.
        folder: is made.
        patient: name and ID.
        axes: where columns, rows and the order of files run to: "LPI" writes the head first, "RPI" is a patient lying
            on the back with the feet in the scanner.
    """
    volume = nib.load(str(image))
    to_axes = nib.orientations.ornt_transform(
        nib.io_orientation(volume.affine), nib.orientations.axcodes2ornt(tuple(axes))
    )
    volume = volume.as_reoriented(to_axes)
    voxels = np.round(np.asarray(volume.dataobj)).astype(np.int16)
    affine = LPS_TO_RAS @ volume.affine
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / sides
    study, series, frame = (generate_uid() for _ in range(3))
    folder.mkdir(parents=True)
    files = []
    for index in range(voxels.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.is_little_endian, slice_.is_implicit_VR = True, False
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        slice_.SpecificCharacterSet = "ISO_IR 192"
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, series, frame
        slice_.PatientName, slice_.PatientID, slice_.PatientBirthDate, slice_.PatientSex = patient, patient, "", "O"
        slice_.StudyDate, slice_.StudyTime, slice_.StudyID, slice_.AccessionNumber = "20260101", "120000", "1", ""
        slice_.ReferringPhysicianName, slice_.StudyDescription, slice_.SeriesDescription = "", "Phantom", "Axial"
        slice_.Modality, slice_.Manufacturer = "CT", "Deep FiLM"
        slice_.SeriesNumber, slice_.InstanceNumber = 1, index + 1
        slice_.PositionReferenceIndicator, slice_.KVP, slice_.AcquisitionNumber = "", "", 1
        slice_.PatientPosition = "FFS" if axes.startswith("RP") else "HFS"
        slice_.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        slice_.ImageOrientationPatient = directions[:, :2].T.ravel().round(8).tolist()
        slice_.ImagePositionPatient = (affine[:3, 3] + affine[:3, 2] * index).round(6).tolist()
        slice_.PixelSpacing = sides[[1, 0]].round(8).tolist()
        slice_.SliceThickness = round(float(sides[2]), 8)
        slice_.Rows, slice_.Columns = voxels.shape[1], voxels.shape[0]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.RescaleIntercept, slice_.RescaleSlope, slice_.RescaleType = 0, 1, "HU"
        slice_.WindowCenter, slice_.WindowWidth = 40, 400
        slice_.PixelData = np.ascontiguousarray(voxels[:, :, index].T).tobytes()
        files.append(folder / f"{index:04d}.dcm")
        slice_.save_as(str(files[-1]), write_like_original=False)
    return files


def change_slice(file: Path, **changes: Any) -> None:
    """Set attributes of a DICOM file."""
    dataset = pydicom.dcmread(file)
    for key, value in changes.items():
        setattr(dataset, key, value)
    dataset.save_as(file)
