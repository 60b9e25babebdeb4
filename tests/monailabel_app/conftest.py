"""Phantoms to serve, with their truth kept elsewhere, and servers on them."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from custom.tools.phantoms.dataset import write_phantoms
from tests.helpers.clinic import Clinic, run_clinic
from tests.helpers.server import Server

pytest.importorskip("monailabel", reason="the extra 'label' is not installed")
from monailabel.client import MONAILabelClient


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantoms of 3 mm that the demonstration weights were not trained on; see ``truth_of``."""
    data = write_phantoms(tmp_path_factory.mktemp("phantoms"), splits={"test": 3}, seed=9000).parent
    folder = tmp_path_factory.mktemp("studies")
    for image in (data / "images").iterdir():
        image.rename(folder / image.name)
    (data / "labels").rename(folder.parent / f"{folder.name}_truth")
    return folder


@pytest.fixture(scope="module")
def server(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), studies) as running:
        yield running
    gc.collect()


@pytest.fixture(scope="module")
def clinic(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with run_clinic(studies / "phantom_0000.nii.gz", tmp_path_factory.mktemp("clinic")) as running:
        yield running


@pytest.fixture
def client(server: Server) -> MONAILabelClient:
    return MONAILabelClient(server.address)
