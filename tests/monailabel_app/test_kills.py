"""The server killed in the middle of everything: it starts again with nothing lost or half-written."""

import json
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

from tests.helpers.server import Server, truth_of, wait_for_status

MODEL = "film_swinunetr"


@pytest.fixture
def server(studies: Path, tmp_path: Path) -> Server:
    folder = tmp_path / "studies"
    shutil.copytree(studies, folder, ignore=shutil.ignore_patterns("labels", "*.json", ".*"))
    return Server(tmp_path / "server", folder)


def ask(server: Server) -> requests.Response:
    data = {"params": json.dumps({"prompt": "liver, spleen"})}
    return requests.post(f"{server.address}/infer/{MODEL}?image=phantom_0000&output=json", data=data, timeout=60)


def test_killed_during_inference(server: Server) -> None:
    with server:
        before = ask(server).json()["segments"]
    with server:  # which has encoded nothing yet
        with ThreadPoolExecutor() as threads:
            asking = threads.submit(ask, server)
            time.sleep(0.2)
            server.stop(signal.SIGKILL)
        assert isinstance(asking.exception(), requests.RequestException)
        server.start()
        assert ask(server).json()["segments"] == before


def test_killed_while_labels_are_saved(server: Server, studies: Path, tmp_path: Path) -> None:
    names = [f"phantom_000{number}" for number in range(3)]
    labels = {name: tmp_path / f"{name}.nii.gz" for name in names}
    voxels = {}
    for name, file in labels.items():
        image = nib.load(str(studies / file.name))
        voxels[name] = np.random.default_rng(0).integers(0, 3, image.shape).astype(np.uint8)  # large when compressed
        nib.save(nib.Nifti1Image(voxels[name], image.affine), file)
    params = {"params": json.dumps({"label_info": [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}]})}
    saved: set[str] = set()

    def save() -> None:
        for name in names * 30:
            files = {"label": ("label.nii.gz", labels[name].read_bytes())}
            address = f"{server.address}/datastore/label?image={name}&tag=final"
            requests.put(address, data=params, files=files, timeout=60).raise_for_status()
            saved.add(name)

    with server, ThreadPoolExecutor() as threads:
        for pause in (0.4, 1.3):
            saving = threads.submit(save)
            time.sleep(pause)
            server.stop(signal.SIGKILL)
            assert isinstance(saving.exception(), requests.ConnectionError)
            server.start()
            kept = requests.get(f"{server.address}/datastore/?output=all", timeout=10).json()["objects"]
            assert saved <= {name for name, item in kept.items() if "final" in item["labels"]}
            for name in saved:
                assert kept[name]["labels"]["final"]["info"]["label_info"][1] == {"name": "spleen", "idx": 2}
            for file in Path(server.studies).glob("labels/final/*.nii.gz"):
                assert np.array_equal(nib.load(str(file)).dataobj, voxels[file.name.removesuffix(".nii.gz")])
        assert saved


@pytest.mark.slow
def test_killed_during_training(server: Server, studies: Path, tmp_path: Path) -> None:
    weights = server.app / "model" / MODEL / "models" / "model.safetensors"
    with server:
        before = weights.read_bytes()
        info = json.dumps({"label_info": [{"name": "liver", "idx": 1}]})
        for name in ("phantom_0000", "phantom_0001"):
            image = nib.load(str(studies / f"{name}.nii.gz"))
            file = tmp_path / f"{name}.nii.gz"
            nib.save(nib.Nifti1Image(truth_of(studies, name, 6).astype(np.uint8), image.affine), file)
            address = f"{server.address}/datastore/label?image={name}&tag=final"
            files = {"label": (file.name, file.read_bytes())}
            requests.put(address, data={"params": info}, files=files, timeout=60).raise_for_status()
        requests.post(f"{server.address}/train/{MODEL}", json={"max_epochs": 1000}, timeout=30).raise_for_status()
        wait_for_status(server, "running")
        (training,) = (
            child
            for child in psutil.Process(server.process.pid).children(recursive=True)
            if "monailabel.interfaces.utils.app" in child.cmdline()
        )
        server.stop(signal.SIGKILL)
        training.wait(20)
        server.start()
        wait_for_status(server, "stopped")
        assert weights.read_bytes() == before
        assert ask(server).ok
