"""The server killed in the middle of everything: it starts again with nothing lost or half-written."""

import json
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
from server import Server

MODEL = "film_swinunetr"


@pytest.fixture
def server(studies: Path, tmp_path: Path) -> Server:
    folder = tmp_path / "studies"
    shutil.copytree(studies, folder, ignore=shutil.ignore_patterns("labels", "*.json", ".*"))
    return Server(tmp_path / "server", folder)


def ask(server: Server) -> requests.Response:
    data = {"params": json.dumps({"prompt": "liver, spleen", "test_time_augmentation": True})}
    return requests.post(f"{server.address}/infer/{MODEL}?image=phantom_0000&output=json", data=data, timeout=60)


def test_killed_during_inference(server: Server) -> None:
    with server:
        before = ask(server).json()["segments"]
        with ThreadPoolExecutor() as threads:
            asking = threads.submit(ask, server)
            time.sleep(0.5)
            server.stop(signal.SIGKILL)
        assert isinstance(asking.exception(), requests.RequestException)
        server.start()
        assert ask(server).json()["segments"] == before


def test_killed_while_labels_are_saved(server: Server, studies: Path, tmp_path: Path) -> None:
    image = nib.load(str(studies / "phantom_0000.nii.gz"))
    label = tmp_path / "label.nii.gz"
    voxels = np.random.default_rng(0).integers(0, 3, image.shape).astype(np.uint8)  # large when compressed
    nib.save(nib.Nifti1Image(voxels, image.affine), label)
    params = {"params": json.dumps({"label_info": [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}]})}
    saved: set[str] = set()

    def save() -> None:
        for number in range(100):
            name = f"phantom_000{number % 3}"
            with label.open("rb") as stream:
                files = {"label": ("label.nii.gz", stream)}
                try:
                    answer = requests.put(
                        f"{server.address}/datastore/label?image={name}&tag=final", data=params, files=files, timeout=60
                    )
                except requests.RequestException:
                    return
            assert answer.ok, answer.text
            saved.add(name)

    with server:
        for pause in (0.4, 1.3):
            thread = threading.Thread(target=save)
            thread.start()
            time.sleep(pause)
            server.stop(signal.SIGKILL)
            thread.join()
            server.start()
            kept = requests.get(f"{server.address}/datastore/?output=all", timeout=10).json()["objects"]
            assert saved <= {name for name, item in kept.items() if "final" in item["labels"]}
            for name in saved:
                assert kept[name]["labels"]["final"]["info"]["label_info"][1] == {"name": "spleen", "idx": 2}
            folder = Path(server.studies) / "labels" / "final"
            for file in folder.glob("*.nii.gz"):
                assert np.array_equal(np.asarray(nib.load(str(file)).dataobj), voxels)
