"""The bundle under torchrun: two processes over Gloo score, train and go on as one does."""

import json
import os
import signal
import subprocess
import sys
import time
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

NETWORK = {"text_encoder": "minilm", "feature_size": 12, "network_def::window_size": 4, "num_workers": 0}
SIZES = {"roi_size": [64, 32, 32], "spacing": [12, 12, 12], "samples_per_volume": 1, "val_interval": 1}


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


def start(run_id: str, *names: str, **settings: object) -> subprocess.Popen[str]:
    """Two processes under torchrun, with their standard output and error in one; settings as a user types them."""
    files = str([str(CONFIGS / f"{name}.json") for name in names])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", run_id, "--config_file", files]
    command += [part for setting, value in settings.items() for part in (f"--{setting}", str(value))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)


def torchrun(run_id: str, *names: str, fails: object = False, **settings: object) -> str:
    """What two processes print; arguments are those of ``start``."""
    with start(run_id, *names, **settings) as process:
        printed, _ = process.communicate(timeout=400)
    assert (process.returncode != 0) == bool(fails), printed[-6000:]
    return printed


def workers(torchrun: int) -> list[int]:
    """The processes that torchrun has started for its ranks."""
    children = psutil.Process(torchrun).children()
    return [child.pid for child in children if "monai.bundle" in child.cmdline()]


def test_two_processes_write_the_same_tables_and_pictures_as_one(
    bundle: Bundle, phantoms: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings = {"dataset_dir": phantoms, "split": "validation", "amp": False}
    settings |= {"validate::prompt_texts": ["canonical"], "validate::requests": "dataset"}
    bundle.run("train", "evaluate", output_dir=one, **settings)
    files = {"weights": bundle.small.weights, "text_bank": bundle.small.text_bank}
    names = ("train", "evaluate", "multi_gpu_evaluate")
    printed = torchrun("evaluating", *names, output_dir=two, **settings, **files)
    assert printed.count("Written: ") == 1
    written = [{str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*")} for out in (one, two)]
    assert written[0].keys() == written[1].keys()
    assert [name for name, content in written[0].items() if content != written[1][name]] == []


def test_a_training_goes_on_from_one_process_to_two_and_back(bundle: Bundle, phantoms: Path, tmp_path: Path) -> None:
    files = {"dataset_dir": phantoms, "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval"}
    settings = {**NETWORK, **SIZES, **files, "weights": tmp_path / "models" / "model.safetensors"}
    checkpoint = tmp_path / "models" / "last.pt"
    bundle.run("train", max_epochs=1, **settings)
    printed = torchrun("training", "train", "multi_gpu_train", max_epochs=2, **settings)
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
    files = {"weights": bundle.small.weights, "text_bank": bundle.small.text_bank, "output_dir": tmp_path / "out"}
    settings: dict[str, Any] = {"image": images, "prompt": "liver", "amp": False, **files}
    torchrun("inference", "inference", "multi_gpu_inference", fails=True, **settings)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["status"] for row in report["requests"]] == ["done"] * 3 + ["failed"]
    (tmp_path / "out" / "ct_1" / "liver.nii.gz").unlink()
    (images / "ct_3.nii.gz").unlink()
    printed = torchrun("inference", "inference", "multi_gpu_inference", **settings)
    assert "3 requests: 1 done, 2 skipped" in printed
    assert (tmp_path / "out" / "ct_1" / "liver.nii.gz").is_file()


@pytest.mark.parametrize("victim", ["a worker", "all"])
def test_answers_survive_a_kill_and_the_rest_follows(
    victim: str, bundle: Bundle, phantoms: Path, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number in range(24):
        (images / f"ct_{number:02}.nii.gz").write_bytes((phantoms / "image_0.nii.gz").read_bytes())
    files = {"weights": bundle.small.weights, "text_bank": bundle.small.text_bank, "output_dir": out}
    settings: dict[str, Any] = {"image": images, "prompt": "liver", "amp": False, **files}
    with start("inference", "inference", "multi_gpu_inference", **settings) as process:
        deadline = time.monotonic() + 300
        while not list(out.glob("ct_*/labels.nii.gz")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        own = workers(process.pid)
        assert len(own) == 2
        for each in [process.pid, *own] if victim == "all" else own[:1]:
            os.kill(each, signal.SIGKILL)
        process.communicate(timeout=120)
    assert process.returncode != 0
    done = [folder for folder in out.iterdir() if not folder.name.startswith(".writing-")]
    assert 0 < len(done) < 24
    assert all(len(list(folder.iterdir())) == 4 for folder in done)
    printed = torchrun("inference", "inference", "multi_gpu_inference", **settings)
    assert f"24 requests: {24 - len(done)} done, {len(done)} skipped" in printed
    assert sorted(path.name for path in out.iterdir()) == [f"ct_{number:02}" for number in range(24)] + ["report.json"]
