"""A real PACS (Orthanc) on the loopback interface."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest
import requests

from tests.helpers.waiting import wait_until

if TYPE_CHECKING:
    from tests.helpers.warm_python import Process

ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

needs_orthanc = pytest.mark.skipif(
    not (Path(ORTHANC).exists() and DICOMWEB_PLUGIN.exists()),
    reason="Orthanc is not installed: apt install orthanc orthanc-dicomweb",
)


@contextmanager
def run_orthanc(folder: Path) -> Iterator[str]:
    """Yield the address of an Orthanc with DICOMweb that keeps its files in ``folder``."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "Plugins": [str(DICOMWEB_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    log, address = folder / "orthanc.log", f"http://127.0.0.1:{port}"
    with log.open("wb") as stream:
        process = subprocess.Popen([ORTHANC, folder / "orthanc.json"], stdout=stream, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: responds(f"{address}/system", process, log), timeout=60)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def responds(address: str, process: subprocess.Popen[bytes] | Process, log: Path) -> bool:
    """Whether a server responds at an address.

    Raises:
        RuntimeError: its process has ended; the message is the end of its log.
    """
    if process.poll() is not None:
        raise RuntimeError(log.read_text()[-4000:])
    try:
        return bool(requests.get(address, timeout=5).ok)
    except requests.RequestException:
        return False


def upload(address: str, files: list[Path]) -> str:
    """Send DICOM files to Orthanc and return their SeriesInstanceUID."""
    for file in files:
        requests.post(f"{address}/instances", data=file.read_bytes(), timeout=30).raise_for_status()
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)


def free_port() -> int:
    """A port of the loopback interface that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
