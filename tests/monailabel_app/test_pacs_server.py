"""A server on a PACS: DICOM series in, DICOM segmentations out, stored there and read by another program."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
from nibabel.affines import apply_affine

from tests.helpers.clinic import Clinic
from tests.helpers.pacs import needs_orthanc
from tests.helpers.server import MODEL, dice, truth_of
from tests.helpers.waiting import wait_until

READER = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))  # of dcmqi

pytestmark = [pytest.mark.pacs, needs_orthanc]


def infer(clinic: Clinic, prompt: str, output: str) -> requests.Response:
    return clinic.server.infer(prompt, clinic.series, output=output, timeout=120)


def read_with_dcmqi(file: Path, folder: Path) -> dict[str, tuple[dict[str, Any], nib.Nifti1Image]]:
    """Segments by label, as dcmqi reads them: their attributes and masks."""
    assert READER, "dcmqi is not installed (extra dev)"
    folder.mkdir()
    options = f"--inputDICOM {file} --outputDirectory {folder} --outputType nii --prefix seg"
    subprocess.run([READER, *options.split()], check=True, capture_output=True)
    segments = json.loads((folder / "seg-meta.json").read_text())["segmentAttributes"]
    return {row["SegmentLabel"]: (row, nib.load(folder / f"seg-{n}.nii.gz")) for n, (row,) in enumerate(segments, 1)}


def test_a_segmentation_is_named_coded_coloured_and_in_position(clinic: Clinic, studies: Path, tmp_path: Path) -> None:
    response = infer(clinic, "liver, left kidney", "dicom_seg")
    assert response.ok and response.headers["content-type"] == "application/dicom", response.text[:300]
    file = tmp_path / "seg.dcm"
    file.write_bytes(response.content)
    data = pydicom.dcmread(file)
    assert data.Modality == "SEG" and data.PatientName == "PHANTOM^ONE"
    assert "Research use only" in data.SeriesDescription
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == clinic.series
    liver = next(item for item in data.SegmentSequence if item.SegmentLabel == "liver")
    algorithm = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == MODEL and re.fullmatch(r"[\d.]+, weights \w{12}", algorithm.AlgorithmVersion)
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"  # SNOMED CT: liver structure
    image = nib.load(str(studies / "phantom_0000.nii.gz"))
    segments = read_with_dcmqi(file, tmp_path / "read")
    assert list(segments) == ["left kidney", "liver"]
    for name, value in (("left kidney", 3), ("liver", 6)):
        attributes, found = segments[name]
        assert len(attributes["recommendedDisplayRGBValue"]) == 3
        mask = np.zeros(image.shape, bool)  # dcmqi omits slices without segments
        onto = np.linalg.inv(image.affine) @ found.affine
        indices = apply_affine(onto, np.argwhere(np.asarray(found.dataobj) > 0))
        assert np.abs(indices - indices.round()).max() < 1e-3
        mask[tuple(indices.round().astype(int).T)] = True
        assert dice(mask, truth_of(studies, "phantom_0000", value)) > 0.7, name


def test_it_is_stored_in_the_pacs_and_retrieved(clinic: Clinic, tmp_path: Path) -> None:
    content = infer(clinic, "spleen", "dicom_seg").content
    stored = requests.post(f"{clinic.pacs}/instances", data=content, timeout=30).json()
    file = tmp_path / "again.dcm"
    file.write_bytes(requests.get(f"{clinic.pacs}/instances/{stored['ID']}/file", timeout=30).content)
    assert list(read_with_dcmqi(file, tmp_path / "read")) == ["spleen"]


def test_a_finished_label_becomes_a_segmentation_in_the_pacs(clinic: Clinic, tmp_path: Path) -> None:
    file = tmp_path / "label.nii.gz"
    file.write_bytes(infer(clinic, "spleen, bladder", "image").content)
    saved = clinic.server.save_label(clinic.series, file, ["spleen", "bladder"])
    assert saved.ok, saved.text
    series = requests.get(f"{clinic.pacs}/dicom-web/series?Modality=SEG", timeout=10).json()
    assert series, "the PACS has no segmentation"
    wait_until(lambda: clinic.server.info()["datastore"]["completed"] == 1, timeout=30)  # lists are cached for 10 s


def test_what_is_not_in_the_pacs_is_not_found(clinic: Clinic) -> None:
    response = clinic.server.infer("liver", "1.2.3")
    assert response.status_code == 404 and "no image of that id" in response.json()["detail"]


def test_the_log_holds_no_patient(clinic: Clinic) -> None:
    lines = clinic.server.requests_log().splitlines()
    assert not [line for line in lines if "PHANTOM" in line or clinic.series in line or "spleen" in line]
