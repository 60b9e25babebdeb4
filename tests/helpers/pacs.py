"""A PACS on loopback: a real Orthanc."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import requests

ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


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
