"""An annotation session on a real server: strategies, scoring, a batch, saved labels, trainings."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

from custom.weights.header import read_header
from tests.helpers.server import MODEL, Server, dice, truth_of
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # the client leaves sockets open


@pytest.fixture(scope="module")
def server(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("annotated")
    for image in studies.glob("*.nii.gz"):
        shutil.copy(image, folder)
    with Server(tmp_path_factory.mktemp("server"), folder) as running:
        yield running


def task_of(server: Server, path: str) -> dict[str, Any]:
    """The latest task, once it has ended."""

    def task() -> dict[str, Any]:
        return dict(server.get(path).json())

    wait_until(lambda: task()["status"] not in ("SUBMITTED", "RUNNING"), timeout=400, pause=0.5)
    return task()


def finish(client: MONAILabelClient, studies: Path, image: str, tmp_path: Path) -> None:
    """Save the true liver and spleen as an annotator would, and no other structure."""
    source = nib.load(str(studies / f"{image}.nii.gz"))
    label = truth_of(studies, image, 6).astype(np.uint8) + 2 * truth_of(studies, image, 1).astype(np.uint8)
    file = tmp_path / f"{image}.nii.gz"
    nib.save(nib.Nifti1Image(label, source.affine), file)
    info = [{"name": "Liver", "idx": 1}, {"name": "spleen", "idx": 2}]
    client.save_label(image, str(file), params={"label_info": info})


def test_scoring_provides_what_the_strategies_read(client: MONAILabelClient, server: Server) -> None:
    assert client.next_sample("first", {})["id"] == "phantom_0000"
    assert client.next_sample("random", {})["id"].startswith("phantom_")
    assert "No image is scored yet" in client.next_sample("uncertainty", {})["note"]
    server.post("/scoring/uncertainty", json={"model": MODEL, "prompt": "liver, bladder"}).raise_for_status()
    assert task_of(server, "/scoring/")["status"] == "DONE"
    chosen = client.next_sample("uncertainty", {"model": MODEL})
    assert 0 < chosen["entropy"] <= 1 and "note" not in chosen
    scores = [item["image"]["info"]["uncertainty"][MODEL]["entropy"] for item in client.datastore()["objects"].values()]
    assert chosen["entropy"] == max(scores)


def test_a_batch_saves_a_label_for_every_image(client: MONAILabelClient, server: Server, studies: Path) -> None:
    server.post(f"/batch/infer/{MODEL}", json={"prompt": "liver, spleen"}).raise_for_status()
    task = task_of(server, "/batch/infer")
    assert task["status"] == "DONE"
    assert any("3 of 3: found spleen, liver" in line for line in task["details"])
    for image, item in client.datastore()["objects"].items():
        names = item["labels"]["original"]["info"]["params"]["label_names"]
        assert names == {"spleen": 1, "liver": 2}
        voxels = np.asarray(nib.load(client.download_label(image, "original")).dataobj)
        assert dice(voxels == names["liver"], truth_of(studies, image, 6)) > 0.7


def test_a_training_needs_labels_and_says_how_many(client: MONAILabelClient, server: Server) -> None:
    client.train_start(MODEL, {"max_epochs": 1})
    task = task_of(server, "/train/")
    assert task["status"] == "ERROR"
    assert "at least two finished labels" in server.training()["error"], task["details"]


def test_a_label_that_does_not_fit_is_refused(client: MONAILabelClient, tmp_path: Path) -> None:
    file = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.uint8), np.eye(4)), file)
    with pytest.raises(MONAILabelClientException, match="Status: 400"):
        client.save_label("phantom_0000", str(file), params={"label_info": [{"name": "liver", "idx": 1}]})
    assert "final" not in client.datastore()["objects"]["phantom_0000"]["labels"]


def test_training_on_finished_labels(client: MONAILabelClient, server: Server, studies: Path, tmp_path: Path) -> None:
    weights = server.weights
    before, known = weights.read_bytes(), read_header(weights)["volume"]["trained_classes"]
    for image in ("phantom_0000", "phantom_0001"):
        finish(client, studies, image, tmp_path)
    assert client.next_sample("first", {})["id"] == "phantom_0002"
    config = server.info()["trainers"][MODEL]["config"]
    options = {key: value[0] if isinstance(value, list) else value for key, value in config.items()}
    client.train_start(MODEL, options | {"max_epochs": 1})
    with pytest.raises(MONAILabelClientException, match="429"):
        client.train_start(MODEL, {"max_epochs": 1})
    report = client.infer(MODEL, "phantom_0002", {"prompt": "liver"})[1]
    assert report["found"] == ["liver"], "inference goes on during a training"
    task = task_of(server, "/train/")
    assert task["status"] == "DONE", task["details"]
    stats = server.training()
    assert stats["epoch"] == stats["total_epochs"] == 1 and stats["status"] == "done"
    assert stats["labels"] == ["spleen", "liver"]
    if stats["installed"]:
        assert weights.read_bytes() != before and stats["new_score"] >= stats["old_score"]
        assert [path.read_bytes() for path in weights.parent.glob("model-*.safetensors")] == [before]
    else:
        assert weights.read_bytes() == before and stats["new_score"] < stats["old_score"]
    assert read_header(weights)["volume"]["trained_classes"] == known, (
        "classes that were not labelled here are not lost"
    )
    assert client.infer(MODEL, "phantom_0002", {"prompt": "liver, bladder"})[1]["model"]["trained"]


def test_a_training_can_be_stopped(client: MONAILabelClient, server: Server) -> None:
    before = server.weights.read_bytes()
    client.train_start(MODEL, {"max_epochs": 1000})
    server.wait_for_training("running")
    client.train_stop()
    assert task_of(server, "/train/")["status"] == "STOPPED"
    server.wait_for_training("stopped")
    assert server.weights.read_bytes() == before
    assert client.infer(MODEL, "phantom_0002", {"prompt": "liver"})[1]["found"] == ["liver"]


def test_the_log_has_no_names(server: Server) -> None:
    assert not [line for line in server.requests_log().splitlines() if "phantom_" in line or "liver" in line]
