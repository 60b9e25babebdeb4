"""A killed server starts again with nothing lost or half-written."""

import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import requests

from tests.helpers.server import MODEL, Server, truth_of


@pytest.fixture
def server(studies: Path, tmp_path: Path) -> Server:
    folder = tmp_path / "studies"
    shutil.copytree(studies, folder, ignore=shutil.ignore_patterns("labels", "*.json", ".*"))
    return Server(tmp_path / "server", folder)


def test_killed_during_inference(server: Server) -> None:
    with server:
        before = server.infer("liver, spleen").json()["segments"]
        with ThreadPoolExecutor() as threads:  # another image, whose windows no cache holds
            request = threads.submit(server.infer, "liver, spleen", image="phantom_0001")
            time.sleep(0.2)
            server.stop(signal.SIGKILL)
        assert isinstance(request.exception(), requests.RequestException)
        server.start()
        assert server.infer("liver, spleen").json()["segments"] == before


def test_killed_while_labels_are_saved(server: Server, studies: Path, tmp_path: Path) -> None:
    names = [f"phantom_000{number}" for number in range(3)]
    labels = {name: tmp_path / f"{name}.nii.gz" for name in names}
    voxels = {}
    for name, file in labels.items():
        image = nib.load(str(studies / file.name))
        voxels[name] = np.random.default_rng(0).integers(0, 3, image.shape).astype(np.uint8)  # large when compressed
        nib.save(nib.Nifti1Image(voxels[name], image.affine), file)
    saved: set[str] = set()

    def save() -> None:
        for name in names * 30:
            server.save_label(name, labels[name], ["liver", "spleen"]).raise_for_status()
            saved.add(name)

    with server, ThreadPoolExecutor() as threads:
        saving = threads.submit(save)
        while not saved:
            time.sleep(0.01)
        time.sleep(0.4)
        server.stop(signal.SIGKILL)
        assert isinstance(saving.exception(), requests.ConnectionError)
        server.start()
        kept = server.get("/datastore/?output=all").json()["objects"]
        assert saved <= {name for name, item in kept.items() if "final" in item["labels"]}
        for name in saved:
            assert kept[name]["labels"]["final"]["info"]["label_info"][1] == {"name": "spleen", "idx": 2}
        for file in Path(server.studies).glob("labels/final/*.nii.gz"):
            assert np.array_equal(nib.load(str(file)).dataobj, voxels[file.name.removesuffix(".nii.gz")])


@pytest.mark.slow
def test_killed_during_training(server: Server, studies: Path, tmp_path: Path) -> None:
    with server:
        before = server.weights.read_bytes()
        for name in ("phantom_0000", "phantom_0001"):
            image = nib.load(str(studies / f"{name}.nii.gz"))
            file = tmp_path / f"{name}.nii.gz"
            nib.save(nib.Nifti1Image(truth_of(studies, name, 6).astype(np.uint8), image.affine), file)
            server.save_label(name, file, ["liver"]).raise_for_status()
        server.post(f"/train/{MODEL}", json={"max_epochs": 1000}).raise_for_status()
        server.wait_for_training("running")
        (training,) = (
            child
            for child in psutil.Process(server.process.pid).children(recursive=True)
            if "monailabel.interfaces.utils.app" in child.cmdline()
        )
        server.stop(signal.SIGKILL)
        training.wait(20)
        server.start()
        server.wait_for_training("stopped")
        assert server.weights.read_bytes() == before
        assert server.infer("liver, spleen").ok
