"""A real server on a real PACS: DICOM series in, DICOM segmentations out, stored back and read by another program."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests
from nibabel.affines import apply_affine

from tests.helpers.clinic import Clinic, run_clinic
from tests.helpers.pacs import DICOMWEB_PLUGIN, ORTHANC
from tests.helpers.server import dice, truth_of

MODEL = "film_swinunetr"
READER = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))  # of dcmqi

pytestmark = [
    pytest.mark.pacs,
    pytest.mark.skipif(
        not (Path(ORTHANC).exists() and DICOMWEB_PLUGIN.exists()),
        reason="Orthanc (Debian: orthanc, orthanc-dicomweb) is not installed",
    ),
]


@pytest.fixture(scope="module")
def clinic(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with run_clinic(studies / "phantom_0000.nii.gz", tmp_path_factory.mktemp("clinic")) as running:
        yield running


def infer(clinic: Clinic, prompt: str, output: str) -> requests.Response:
    params = {"params": json.dumps({"prompt": prompt})}
    address = f"{clinic.server.address}/infer/{MODEL}?image={clinic.series}&output={output}"
    return requests.post(address, data=params, timeout=120)


def read_with_dcmqi(file: Path, folder: Path) -> dict[str, tuple[dict[str, Any], nib.Nifti1Image]]:
    """Segments by label, as dcmqi reads them: their attributes and masks."""
    assert READER, "dcmqi is not installed (extra dev)"
    folder.mkdir()
    command: list[str | Path] = [
        READER,
        "--inputDICOM",
        file,
        "--outputDirectory",
        folder,
        "--outputType",
        "nii",
        "--prefix",
        "seg",
    ]
    subprocess.run(command, check=True, capture_output=True)
    segments = json.loads((folder / "seg-meta.json").read_text())["segmentAttributes"]
    return {row["SegmentLabel"]: (row, nib.load(folder / f"seg-{n}.nii.gz")) for n, (row,) in enumerate(segments, 1)}


def test_a_segmentation_is_named_coded_coloured_and_in_place(clinic: Clinic, studies: Path, tmp_path: Path) -> None:
    answer = infer(clinic, "liver, left kidney", "dicom_seg")
    assert answer.ok and answer.headers["content-type"] == "application/dicom", answer.text[:300]
    file = tmp_path / "seg.dcm"
    file.write_bytes(answer.content)
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
        mask = np.zeros(image.shape, bool)  # dcmqi leaves slices without segments out
        onto = np.linalg.inv(image.affine) @ found.affine
        places = apply_affine(onto, np.argwhere(np.asarray(found.dataobj) > 0))
        assert np.abs(places - places.round()).max() < 1e-3
        mask[tuple(places.round().astype(int).T)] = True
        assert dice(mask, truth_of(studies, "phantom_0000", value)) > 0.7, name


def test_it_is_stored_back_and_found_there(clinic: Clinic, tmp_path: Path) -> None:
    content = infer(clinic, "spleen", "dicom_seg").content
    stored = requests.post(f"{clinic.pacs}/instances", data=content, timeout=30).json()
    again = requests.get(f"{clinic.pacs}/instances/{stored['ID']}/file", timeout=30).content
    file = tmp_path / "again.dcm"
    file.write_bytes(again)
    assert list(read_with_dcmqi(file, tmp_path / "read")) == ["spleen"]


def test_a_finished_label_becomes_a_segmentation_in_the_pacs(clinic: Clinic, tmp_path: Path) -> None:
    answer = infer(clinic, "spleen, bladder", "image")
    file = tmp_path / "label.nii.gz"
    file.write_bytes(answer.content)
    info = [{"name": "spleen", "idx": 1}, {"name": "bladder", "idx": 2}]
    saved = requests.put(
        f"{clinic.server.address}/datastore/label?image={clinic.series}&tag=final",
        data={"params": json.dumps({"label_info": info})},
        files={"label": ("label.nii.gz", file.read_bytes())},
        timeout=60,
    )
    assert saved.ok, saved.text
    kept = requests.get(f"{clinic.pacs}/dicom-web/series?Modality=SEG", timeout=10).json()
    assert kept, "the PACS has no segmentation"
    deadline = time.monotonic() + 30  # the PACS is asked again every ten seconds
    while clinic.server.info()["datastore"]["completed"] != 1:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_what_is_not_in_the_pacs_is_not_found(clinic: Clinic) -> None:
    answer = requests.post(
        f"{clinic.server.address}/infer/{MODEL}?image=1.2.3", data={"params": '{"prompt": "liver"}'}, timeout=60
    )
    assert answer.status_code == 404 and "no image of that id" in answer.json()["detail"]


def test_the_log_holds_no_patient(clinic: Clinic) -> None:
    lines = clinic.server.log.read_text().split("Application startup complete")[1]
    assert not [line for line in lines.splitlines() if "PHANTOM" in line or clinic.series in line or "spleen" in line]
