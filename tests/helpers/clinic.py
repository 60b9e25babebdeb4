"""A server of the app on a PACS that holds one phantom as a CT series."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pydicom

from tests.helpers.dicom_series import write_series
from tests.helpers.pacs import run_orthanc, upload
from tests.helpers.server import Server


class Clinic(NamedTuple):
    """The server, the address of its PACS, and the UIDs of its study; the patient is PHANTOM^ONE."""

    server: Server
    pacs: str
    study: str
    series: str


@contextmanager
def run_clinic(image: Path, folder: Path) -> Iterator[Clinic]:
    """Yield a clinic that keeps its files in ``folder``; its CT is a NIfTI volume converted to DICOM."""
    files = write_series(image, folder / "series", patient="PHANTOM^ONE")
    study = str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    with run_orthanc(folder / "orthanc") as pacs:
        series = upload(pacs, files)
        with Server(folder / "server", f"{pacs}/dicom-web") as server:
            yield Clinic(server, pacs, study, series)
