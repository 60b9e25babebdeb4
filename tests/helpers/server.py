"""A real MONAI Label server of this app on loopback, in a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import requests

from tests.helpers import ROOT
from tests.helpers.pacs import free_port

APP = ROOT / "monailabel_app"


class Server:
    """Starts ``monailabel start_server`` on a copy of the app, and stops or kills it.

    Args:
        folder: gets the copy of the app, with its own ``model`` and ``logs``, and the server's output.
        studies: a folder or a DICOMweb address.
        conf: further ``--conf`` entries.
    """

    def __init__(self, folder: Path, studies: Path | str, conf: Mapping[str, str] | None = None) -> None:
        self.folder, self.studies, self.conf = folder, str(studies), dict(conf or {})
        self.app = folder / "app"
        self.log = folder / "server.log"
        self.temporary = folder / "tmp"
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
        """Start, and wait until it answers."""
        self.temporary.mkdir(exist_ok=True)
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(self.app)]
        command += ["--studies", self.studies, "--host", "127.0.0.1", "--port", str(port)]
        for key, value in self.conf.items():
            command += ["--conf", key, value]
        root = str(APP.parent)
        environment = os.environ | {
            "PYTHONPATH": root,
            "HOME": str(self.folder),
            "TMPDIR": str(self.temporary),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=self.folder
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                self.info()
                return
            except requests.RequestException:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(self.log.read_text()[-4000:]) from None
                time.sleep(0.2)

    def stop(self, how: signal.Signals) -> None:
        """End the server with a signal and wait until it is gone."""
        self.process.send_signal(how)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def info(self) -> dict[str, Any]:
        response = requests.get(f"{self.address}/info/", timeout=5)
        response.raise_for_status()
        content: dict[str, Any] = response.json()
        return content

    def memory(self) -> int:
        """Resident bytes of the server, without its tasks' processes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


def dice(found: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def truth_of(studies: Path, image: str, value: int) -> np.ndarray[Any, Any]:
    file = studies.parent / f"{studies.name}_truth" / f"{image}.nii.gz"
    voxels: np.ndarray[Any, Any] = np.asarray(nib.load(str(file)).dataobj)
    return np.isin(voxels, value)


def wait_for_status(server: Server, status: str) -> None:
    """Wait until the server's latest training of its first model is in this state."""
    deadline = time.monotonic() + 120
    while (stats := server.info()["train_stats"]["film_swinunetr"]).get("status") != status:
        assert time.monotonic() < deadline, stats
        time.sleep(0.2)
