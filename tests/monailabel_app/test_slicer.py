"""The requests of 3D Slicer's extension, sent by its own client module (MONAI Label 0.8.5, plugins/slicer)."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest

from tests.helpers.server import MODEL, Server, dice, truth_of

CLIENT = Path(sys.prefix, "monailabel", "plugins", "slicer", "MONAILabel", "MONAILabelLib", "client.py")

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # the client leaves sockets open


@pytest.fixture(scope="module")
def extension() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slicer_client", CLIENT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def slicer(extension: ModuleType, server: Server, tmp_path: Path) -> Iterator[Any]:
    yield extension.MONAILabelClient(server.address, tmpdir=str(tmp_path), client_id="user-xyz")


def options(info: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    """The unchanged options table, as the extension sends it: the first of each list."""
    config = info[section][name].get("config", {})
    return {key: value[0] if isinstance(value, list) else value for key, value in config.items()}


def test_auto_segmentation_gives_segments_numbered_as_the_import_expects(slicer: Any, studies: Path) -> None:
    info = slicer.info()
    sample = slicer.next_sample("first", {})
    assert sample["id"].startswith("phantom_") and Path(sample["path"]).is_file()
    params = options(info, "models", MODEL) | {"prompt": "both kidneys, liver"}
    params |= {"result_extension": ".nrrd", "result_dtype": "uint8"}
    file, report = slicer.infer(MODEL, sample["id"], params)
    names = [name for name, _ in sorted(report["label_names"].items(), key=lambda item: item[1])]
    voxels, header = nrrd.read(file)
    assert set(np.unique(voxels)) == set(range(1 + len(names))), "label values 1..n are the names in order"
    image = nib.load(str(studies / f"{sample['id']}.nii.gz"))
    assert voxels.shape == image.shape and voxels.dtype == np.uint8
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.asarray(header["space directions"]).T, header["space origin"]
    assert header["space"] == "left-posterior-superior"
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ affine, image.affine)
    for name, value in (("right kidney", 2), ("liver", 6)):
        assert dice(voxels == 1 + names.index(name), truth_of(studies, sample["id"], value)) > 0.7


def test_an_error_reaches_the_user(slicer: Any, extension: ModuleType) -> None:
    params = options(slicer.info(), "models", MODEL) | {"prompt": "splean tail", "result_extension": ".nrrd"}
    with pytest.raises(extension.MONAILabelClientException) as caught:
        slicer.infer(MODEL, "phantom_0000", params)
    assert "Status: 400" in caught.value.msg and "knows: spleen" in caught.value.msg


def test_without_a_prompt_the_error_says_what_to_write(slicer: Any, extension: ModuleType) -> None:
    with pytest.raises(extension.MONAILabelClientException) as caught:
        slicer.infer(MODEL, "phantom_0000", options(slicer.info(), "models", MODEL))
    assert "must say what to segment" in caught.value.msg


def test_an_image_of_the_user_is_sent_by_session(slicer: Any, studies: Path) -> None:
    session = slicer.create_session(str(studies / "phantom_0001.nii.gz"))["session_id"]
    params = {"prompt": "spleen", "result_extension": ".nrrd", "result_dtype": "uint8"}
    file, report = slicer.infer(MODEL, "", params, session_id=session)
    assert nrrd.read(file)[0].sum() == report["segments"][0]["voxels"] > 0
    slicer.remove_session(session)
