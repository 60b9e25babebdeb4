"""A phantom as a DICOM series, and a PACS on loopback to hold it: real pydicom files, a real Orthanc."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import requests
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def write_series(image: Path, folder: Path, *, patient: str = "PHANTOM") -> list[Path]:
    """Write a NIfTI volume in HU as a CT series of axial slices, one file each, from feet to head.

    Only for volumes whose axes are the patient's, as the phantoms' are.
    """
    volume = nib.as_closest_canonical(nib.load(str(image)))  # axes to right, front, head
    voxels = np.round(np.asarray(volume.dataobj)).astype(np.int16)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine  # RAS -> LPS
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    assert np.allclose(affine[:3, :3], np.diag([-sides[0], -sides[1], sides[2]])), "axes must be the patient's"
    voxels = voxels[::-1, ::-1]  # columns to the patient's left, rows to the back
    origin = affine[:3, 3] + affine[:3, 0] * (voxels.shape[0] - 1) + affine[:3, 1] * (voxels.shape[1] - 1)
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
        slice_.Modality, slice_.Manufacturer, slice_.SeriesNumber, slice_.InstanceNumber = (
            "CT",
            "Deep FiLM",
            1,
            index + 1,
        )
        slice_.PositionReferenceIndicator, slice_.KVP, slice_.AcquisitionNumber = "", "", 1
        slice_.PatientPosition = "HFS"
        slice_.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.ImagePositionPatient = [round(float(v), 6) for v in origin + affine[:3, 2] * index]
        slice_.PixelSpacing = [float(sides[1]), float(sides[0])]
        slice_.SliceThickness = float(sides[2])
        slice_.Rows, slice_.Columns = voxels.shape[1], voxels.shape[0]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.RescaleIntercept, slice_.RescaleSlope, slice_.RescaleType = 0, 1, "HU"
        slice_.WindowCenter, slice_.WindowWidth = 40, 400
        slice_.PixelData = np.ascontiguousarray(voxels[:, :, index].T).tobytes()
        files.append(folder / f"{index:04d}.dcm")
        slice_.save_as(str(files[-1]), write_like_original=False)
    return files


@contextmanager
def run_orthanc(folder: Path) -> Iterator[str]:
    """Yield the address of an Orthanc with DICOMweb that keeps its files in ``folder``; it listens on loopback."""
    http, dicom = free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "Name": "test",
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "HttpPort": http,
                "DicomPort": dicom,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomServerEnabled": False,
                "Plugins": [str(DICOMWEB_PLUGIN)],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            }
        )
    )
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, str(configuration)], stdout=log, stderr=subprocess.STDOUT)
        address = f"http://127.0.0.1:{http}"
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    requests.get(f"{address}/system", timeout=2).raise_for_status()
                    break
                except requests.RequestException:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError((folder / "orthanc.log").read_text()[-2000:]) from None
                    time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait(20)


def upload(address: str, files: list[Path]) -> str:
    """Send DICOM files to Orthanc and return their SeriesInstanceUID."""
    for file in files:
        requests.post(f"{address}/instances", data=file.read_bytes(), timeout=30).raise_for_status()
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
