"""Trainings of a few steps on real datastores: which weights are installed, and what a kill leaves."""

from __future__ import annotations

import functools
import json
import logging
import operator
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
import torch
from lib.trainers.fine_tune import FineTuneTask, read_options
from lib.trainers.training_record import TrainingFailed
from monailabel.datastore.local import LocalDatastore
from monailabel.utils.others.generic import device_map

from custom.utils.files import save_safetensors, save_state
from custom.weights.header import read_header, write_metadata
from custom.weights.io import differing_tensors, read_weights
from tests.helpers import ROOT
from tests.helpers.studies import finish_as_slicer, phantom_datastore
from tests.helpers.waiting import wait_until

if TYPE_CHECKING:
    from tests.helpers.small_bundle import Small


@pytest.fixture(autouse=True)
def same_process() -> Iterator[None]:
    """Restore what the run of a bundle changes."""
    before = sys.excepthook, list(sys.path)
    yield
    sys.excepthook, sys.path[:] = before


@contextmanager
def logging_to_stdout() -> Iterator[None]:
    """As MONAI Label's training process logs."""
    root, handler = logging.getLogger(), logging.StreamHandler(sys.stdout)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


@pytest.fixture
def untrained(tmp_path: Path) -> FineTuneTask:
    bundle = tmp_path / "film_swinunetr"
    shutil.copytree(ROOT / "bundles" / bundle.name, bundle, ignore=shutil.ignore_patterns("models", "eval"))
    set_training_defaults(bundle, **{"train::samples_per_volume": 1, "loss::bce_balance": 1.0})
    return FineTuneTask(bundle, text_encoder="minilm")


def set_training_defaults(bundle: Path, **settings: Any) -> None:
    """Edit the bundle's train.json."""
    file = bundle / "configs" / "train.json"
    config = json.loads(file.read_text())
    for path, value in settings.items():
        *parents, key = path.split("::")
        functools.reduce(operator.getitem, parents, config)[key] = value
    file.write_text(json.dumps(config))


@pytest.fixture
def task(untrained: FineTuneTask, small: Small) -> FineTuneTask:
    """A task of a bundle with poor weights for spleen, kidneys and liver."""
    untrained.served.parent.mkdir()
    shutil.copy(small.weights, untrained.served)
    return untrained


def finished(folder: Path, *, count: int) -> LocalDatastore:
    """Finished labels of phantoms; every other lacks the liver."""
    datastore = phantom_datastore(folder, images=range(count))
    for seed in range(count):
        finish_as_slicer(datastore, seed, liver=seed % 2 == 0)
    return datastore


def runs(task: FineTuneTask) -> list[Path]:
    return list(task.record.folder.glob("2*"))


def test_better_weights_are_installed_and_the_old_ones_kept(
    task: FineTuneTask, tmp_path: Path, small: Small, capfd: pytest.CaptureFixture[str]
) -> None:
    datastore = finished(tmp_path / "studies", count=4)
    state, header = read_weights(small.weights)
    header["volume"]["max_classes_per_prompt"] = 2
    save_safetensors(state, task.served, metadata=write_metadata(header, header["provenance"]))
    save_state(state, task.served.with_suffix(".pt"))
    before = task.served.read_bytes()
    with logging_to_stdout():
        result = task({"model": "film", "max_epochs": 2, "learning_rate": 0.003, "roi_size": "$1/0"}, datastore)
    output = "".join(capfd.readouterr())
    (run,) = runs(task)
    kept = task.served.with_name(f"model-{run.name}.safetensors")
    assert kept.read_bytes() == before
    plain = torch.load(task.served.with_suffix(".pt"), weights_only=True)
    assert differing_tensors(plain, read_weights(task.served)[0]) == [] != differing_tensors(plain, state)

    header = read_header(task.served)
    volume = header["volume"]
    assert volume["trained_classes"] == ["spleen", "right kidney", "left kidney", "liver"]
    assert (volume["spacing"], volume["roi_size"]) == ([12, 12, 12], [64, 32, 32])
    assert (header["settings"]["feature_size"], volume["max_classes_per_prompt"]) == (12, 2)
    description = f"3 labels finished in MONAI Label, starting from {kept.name}"
    assert header["provenance"]["data"]["description"] == description

    assert result["installed"] and result["status"] == "done" and (result["epoch"], result["total_epochs"]) == (2, 2)
    assert (result["training_cases"], result["validation_cases"]) == (3, 1)
    assert result["new_score"] == result["best_metric"] == header["provenance"]["validation"]["mean_dice"]
    assert result["old_score"] < result["new_score"]
    assert task.stats() == result | {"left_out": {}}
    settings = {"dataset_dir": str(run / "data"), "output_dir": str(run), "device": "cpu"}
    assert [task._score(weights, settings) for weights in (kept, task.served)] == [
        pytest.approx(result[key], abs=1e-6) for key in ("old_score", "new_score")
    ]

    assert "3 finished labels to train on and 1 to validate on, 0 left out. Labelled: spleen, liver." in output
    assert re.search(r"Epoch 1 of 2: loss \d\.\d{4}, best mean Dice 0\.\d{4}\n", output)
    assert re.search(r"Installed: mean Dice 0\.\d{4}, before 0\.\d{4}\.\n", output)
    assert str(tmp_path) not in output and "ct0" not in output


def test_worse_weights_are_not_installed(task: FineTuneTask, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy(ROOT / "bundles" / "film_swinunetr" / "models" / "demo.safetensors", task.served)
    before = task.served.read_bytes()
    datastore = finished(tmp_path / "studies", count=2)
    result = task({"max_epochs": 1, "learning_rate": 0.3}, datastore)
    assert not result["installed"] and result["new_score"] < result["old_score"]
    assert result["old_score"] > 0.5
    assert task.served.read_bytes() == before
    assert [file.name for file in task.served.parent.glob("*.safetensors")] == ["model.safetensors"]
    assert "Not installed, the old weights stay: mean Dice 0." in capfd.readouterr().out


def test_a_bundle_without_weights_is_trained_from_scratch(
    untrained: FineTuneTask, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    set_training_defaults(
        untrained.bundle_dir,
        feature_size=12,
        spacing=[12, 12, 12],
        roi_size=[64, 32, 32],
        **{"network_def::window_size": 4},
    )
    result = untrained({"max_epochs": 1, "learning_rate": 0.003}, finished(tmp_path / "studies", count=2))
    header = read_header(untrained.served)
    assert result["installed"] and "old_score" not in result
    assert (header["volume"]["text_encoder"], header["volume"]["trained_classes"]) == ("minilm", result["labels"])
    assert [file.name for file in untrained.served.parent.glob("*.safetensors")] == ["model.safetensors"]
    assert re.search(r"Installed: mean Dice 0\.\d{4}\.\n", capfd.readouterr().out)


TRAIN = """
import sys
from pathlib import Path
from lib.trainers.fine_tune import FineTuneTask
from tests.helpers.studies import phantom_datastore

FineTuneTask(Path(sys.argv[1]), text_encoder="minilm")({"max_epochs": 1000}, phantom_datastore(Path(sys.argv[2])))
"""


@pytest.mark.slow
def test_a_killed_training_changes_nothing_and_the_next_starts_cleanly(task: FineTuneTask, tmp_path: Path) -> None:
    datastore = finished(tmp_path / "studies", count=2)
    before = task.served.read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(task.bundle_dir), str(tmp_path / "studies")],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'monailabel_app'}"},
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: process.poll() is not None or task.stats().get("epoch", 0) >= 1, timeout=240)
    assert process.poll() is None
    assert task.stats()["status"] == "running"
    with pytest.raises(ValueError, match="One training of a model at a time"):
        task({}, datastore)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert task.stats()["status"] == "stopped"
    assert FineTuneTask(task.bundle_dir, text_encoder="minilm").stats()["total_epochs"] == 1000
    assert task.served.read_bytes() == before
    (killed,) = runs(task)
    result = task({"max_epochs": 1}, datastore)
    assert (result["status"], result["total_epochs"]) == ("done", 1)
    assert not killed.exists() and len(runs(task)) == 1
    assert not list(task.record.folder.rglob(".writing-*"))


def test_a_failure_is_reported_without_paths_and_changes_nothing(
    task: FineTuneTask, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    datastore = finished(tmp_path / "studies", count=2)
    image = nib.load(tmp_path / "studies" / "ct0.nii.gz")
    scaled = (np.asarray(image.dataobj) / 3000).astype(np.float32)
    nib.save(nib.Nifti1Image(scaled, image.affine), tmp_path / "studies" / "ct0.nii.gz")
    before = task.served.read_bytes()
    with logging_to_stdout(), pytest.raises(TrainingFailed, match=r"failed \(ValueError\).*train_stats") as caught:
        task({"max_epochs": 1}, datastore)
    assert caught.value.__suppress_context__
    assert str(tmp_path) not in "".join(capfd.readouterr()) + str(caught.value)
    stats = task.stats()
    assert stats["status"] == "failed" and not stats["installed"]
    assert stats["error"].startswith("ct0.nii.gz does not look like an image in HU")
    assert "Traceback" in (task.record.folder / "error.txt").read_text()
    assert task.served.read_bytes() == before
    shutil.rmtree(tmp_path / "studies" / "labels")
    with pytest.raises(TrainingFailed):
        task({"max_epochs": 1}, phantom_datastore(tmp_path / "studies"))
    assert task.stats()["error"].startswith("Training needs at least two finished labels")


def test_text_in_a_header_is_not_evaluated(task: FineTuneTask, tmp_path: Path) -> None:
    state, header = read_weights(task.served)
    header["volume"]["text_encoder"] = f"$open({str(tmp_path / 'evaluated')!r}, 'w')"
    save_safetensors(state, task.served, metadata=write_metadata(header, header["provenance"]))
    with pytest.raises(TrainingFailed):
        task({"max_epochs": 1}, finished(tmp_path / "studies", count=2))
    assert task.stats()["error"].startswith("Texts of a weights header must be plain")
    assert not (tmp_path / "evaluated").exists()


def test_options(untrained: FineTuneTask) -> None:
    assert untrained.stats() == {}
    config = untrained.info()["config"]
    assert config == {"max_epochs": 10, "val_split": 0.2, "learning_rate": 1e-4, "device": config["device"]}
    assert config["device"] == list(device_map())
    assert read_options({"max_epochs": "7", "learning_rate": "1e-3", "device": config["device"][0], "x": 1}) == {
        "max_epochs": 7, "val_split": 0.2, "learning_rate": 0.001, "device": device_map()[config["device"][0]]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"max_epochs": 0}, "max_epochs: Input should be greater than or equal to 1"),
        ({"max_epochs": 2.5}, "max_epochs: Input should be a valid integer"),
        ({"max_epochs": "$1"}, "max_epochs: Input should be a valid integer"),
        ({"max_epochs": True}, "max_epochs: must be a number"),
        ({"val_split": 1}, r"val_split: Input should be less than or equal to 0\.99"),
        ({"learning_rate": float("nan")}, "learning_rate: Input should be less"),
        ({"learning_rate": "1e"}, "learning_rate: Input should be a valid number"),
        ({"learning_rate": [1]}, "learning_rate: Input should be a valid number"),
        ({"device": "@x"}, "device: must be one of"),
    ],
)
def test_options_that_are_refused_before_any_work(
    untrained: FineTuneTask, tmp_path: Path, option: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        untrained(option, phantom_datastore(tmp_path / "studies"))
    assert untrained.stats() == {}


def test_a_folder_with_a_number_sign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not hold #"):
        FineTuneTask(tmp_path / "film#2", text_encoder="minilm")
