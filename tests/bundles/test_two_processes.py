"""The bundle in two processes over Gloo: they score, train and go on as one does.

Torchrun itself starts them where it matters; elsewhere forks of a warm process get the variables that it would set.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from custom.tools.phantoms.scene import make_phantom
from custom.weights.io import read_weights
from tests.helpers import CONFIGS, ROOT
from tests.helpers.small_bundle import SMALL_LABELS, Bundle
from tests.helpers.warm_python import Process, start_two

NETWORK = {"text_encoder": "minilm", "feature_size": 12, "network_def::window_size": 4, "num_workers": 0}
SIZES = {"roi_size": [64, 32, 32], "spacing": [12, 12, 12], "train::samples_per_volume": 1, "val_interval": 1}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantoms at 12 mm: as many cases for training as for validation, and an odd number for two processes."""
    folder = tmp_path_factory.mktemp("three")
    cases = []
    for seed in (0, 1, 2):
        phantom = make_phantom(seed, spacing=(12.0, 12.0, 12.0))
        label = np.where(np.isin(phantom.label, [int(value) for value in SMALL_LABELS]), phantom.label, 0)
        nib.save(nib.Nifti1Image(phantom.image, phantom.affine), folder / f"image_{seed}.nii.gz")
        nib.save(nib.Nifti1Image(label.astype(np.uint8), phantom.affine), folder / f"label_{seed}.nii.gz")
        cases.append({"image": f"image_{seed}.nii.gz", "label": f"label_{seed}.nii.gz"})
    content = {"name": "three", "labels": SMALL_LABELS, "training": cases, "validation": cases}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def arguments(run_id: str, *names: str, **settings: object) -> Sequence[str]:
    """Of Python, as a user types them."""
    files = str([str(CONFIGS / f"{name}.json") for name in names])
    options = [part for setting, value in settings.items() for part in (f"--{setting}", str(value))]
    return ("-m", "monai.bundle", "run", run_id, "--config_file", files, *options)


def run(run_id: str, *names: str, fails: object = False, **settings: object) -> str:
    """Run two processes to their end, and return what they print."""
    first, second = start_two(*arguments(run_id, *names, **settings))
    with first, second:
        printed = "".join(text for process in (first, second) for text in process.communicate(timeout=400))
    assert bool(first.returncode or second.returncode) == bool(fails), printed[-6000:]
    return printed


def test_two_processes_write_the_same_tables_and_pictures_as_one(
    bundle: Bundle, phantoms: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings: dict[str, Any] = {"dataset_dir": phantoms, "split": "validation", "amp": False}
    settings |= {"validate::prompt_texts": ["canonical"], "validate::requests": "dataset"}
    bundle.run("train", "evaluate", output_dir=one, **settings)
    files: dict[str, Any] = {"weights": bundle.small.weights, "text_bank": bundle.small.text_bank}
    names = ("train", "evaluate", "multi_gpu_evaluate")
    printed = run("evaluating", *names, output_dir=two, **settings, **files)
    assert printed.count("Written: ") == 1
    written = [{str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*")} for out in (one, two)]
    assert written[0].keys() == written[1].keys()
    assert [name for name, content in written[0].items() if content != written[1][name]] == []


def test_a_training_goes_on_from_one_process_to_two_and_back(bundle: Bundle, phantoms: Path, tmp_path: Path) -> None:
    files: dict[str, Any] = {"dataset_dir": phantoms, "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval"}
    settings = {**NETWORK, **SIZES, **files, "weights": tmp_path / "models" / "model.safetensors"}
    checkpoint = tmp_path / "models" / "last.pt"
    bundle.run("train", max_epochs=1, **settings)
    printed = run("training", "train", "multi_gpu_train", max_epochs=2, **settings)
    assert printed.count("Resuming after epoch 1") == 1
    state = torch.load(checkpoint, weights_only=True)
    assert state["epoch"] == 2
    assert not [name for name in state["network"] if name.startswith("module.")]
    bundle.run("train", max_epochs=3, **settings)
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 3
    weights, _ = read_weights(tmp_path / "models" / "model.safetensors")
    assert weights.keys() == state["network"].keys()
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["last.pt", "model.safetensors"]

    assert len(list((tmp_path / "eval").iterdir())) == 3 * 2  # of a trainer and an evaluator, three runs
    events = EventAccumulator(str(tmp_path / "eval"))
    events.Reload()
    wanted = {"train/loss", "train/learning_rate", "train/cross_entropy/three", "train/dice_loss/three"}
    wanted |= {"validation/mean_dice", "validation/leakage"} | {
        f"validation/dice/{name}" for name in ("spleen", "right kidney", "left kidney", "liver", "liver tumor")
    }
    assert set(events.Tags()["scalars"]) == wanted
    for tag in wanted:
        assert [scalar.step for scalar in events.Scalars(tag)] == [1, 2, 3], tag
    pictures = events.Images("validation/overlay")
    assert [(picture.step, picture.width) for picture in pictures] == [(1, 1500), (2, 1500), (3, 1500)]


def test_two_processes_share_images_and_go_on_where_they_stopped(
    bundle: Bundle, phantoms: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, image in enumerate([phantoms / "image_0.nii.gz"] * 3):
        (images / f"ct_{number}.nii.gz").write_bytes(image.read_bytes())
    (images / "ct_3.nii.gz").write_text("rubbish")
    files: dict[str, Any] = {
        "weights": bundle.small.weights,
        "text_bank": bundle.small.text_bank,
        "output_dir": tmp_path / "out",
    }
    settings: dict[str, Any] = {"image": images, "prompt": "liver", "amp": False, **files}
    run("inference", "inference", "multi_gpu_inference", fails=True, **settings)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["status"] for row in report["requests"]] == ["done"] * 3 + ["failed"]
    (tmp_path / "out" / "ct_1" / "liver.nii.gz").unlink()
    (images / "ct_3.nii.gz").unlink()
    printed = run("inference", "inference", "multi_gpu_inference", **settings)
    assert "3 requests: 1 done, 2 skipped" in printed
    assert (tmp_path / "out" / "ct_1" / "liver.nii.gz").is_file()


@pytest.mark.parametrize("victim", [pytest.param("a worker of torchrun", marks=pytest.mark.slow), "all"])
def test_results_survive_a_kill_and_the_rest_follows(
    victim: str, bundle: Bundle, phantoms: Path, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number in range(6):
        (images / f"ct_{number:02}.nii.gz").write_bytes((phantoms / "image_0.nii.gz").read_bytes())
    files: dict[str, Any] = {"weights": bundle.small.weights, "text_bank": bundle.small.text_bank, "output_dir": out}
    settings: dict[str, Any] = {"image": images, "prompt": "liver", "amp": False, **files}
    names = ("inference", "inference", "multi_gpu_inference")
    (kill_all if victim == "all" else kill_a_worker)(out, names, settings)
    done = [folder for folder in out.iterdir() if not folder.name.startswith(".writing-")]
    assert 0 < len(done) < 6
    assert all(len(list(folder.iterdir())) == 4 for folder in done)
    printed = run(*names, **settings)
    assert f"6 requests: {6 - len(done)} done, {len(done)} skipped" in printed
    assert sorted(path.name for path in out.iterdir()) == [f"ct_{number:02}" for number in range(6)] + ["report.json"]


def kill_all(out: Path, names: Sequence[str], settings: dict[str, Any]) -> None:
    processes = start_two(*arguments(*names, **settings))
    wait_for_a_result(out, processes[0])
    for process in processes:
        process.send_signal(signal.SIGKILL)
        with process:
            process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL


def kill_a_worker(out: Path, names: Sequence[str], settings: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*command, *arguments(*names, **settings)], cwd=ROOT, env=environment) as torchrun:
        wait_for_a_result(out, torchrun)
        children = psutil.Process(torchrun.pid).children()
        workers = [child for child in children if "monai.bundle" in child.cmdline()]
        assert len(workers) == 2
        workers[0].kill()
        assert torchrun.wait(timeout=120) != 0
        assert not any(worker.is_running() for worker in workers)


def wait_for_a_result(out: Path, process: Process | subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not list(out.glob("ct_*/labels.nii.gz")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
