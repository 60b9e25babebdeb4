"""Weights files: what their header says, and what is refused with which advice."""

import json
import math
import re
import threading
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import UNet
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from custom.anatomy.class_set import ClassSet
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.text.bank import PromptBank
from custom.weights.header import FORMAT, read_header
from custom.weights.io import read_weights, save_weights
from custom.weights.volume import describe_volume_weights, load_volume_weights, read_volume_settings
from tests.helpers import BUNDLES
from tests.helpers.headers import changed_header
from tests.helpers.warm_python import run_python

State = dict[str, torch.Tensor]
TEXT_DIM = 16


class RandomEncoder:
    """A real text encoder of no sense: a fixed random vector for each sentence, from a model's seed."""

    kind = "mean"
    dimension = TEXT_DIM

    def __init__(self, seed: int = 0, encoder_id: str = "minilm") -> None:
        self.seed = seed
        self.encoder_id = encoder_id

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        table = torch.randn(256, TEXT_DIM, generator=generator)
        return torch.stack([table[list(prompt.encode())].mean(0) for prompt in prompts])


@pytest.fixture(scope="module")
def bank() -> PromptBank:
    return PromptBank(encoder=RandomEncoder())


@pytest.fixture(scope="module")
def trained(bank: PromptBank, class_set: ClassSet) -> FiLMSwinUNETR:
    torch.manual_seed(1)
    default = bank(class_set.default_prompt)
    return FiLMSwinUNETR(1, 32, 12, TEXT_DIM, window_size=4, default_text=default)


@pytest.fixture
def network() -> FiLMSwinUNETR:
    torch.manual_seed(2)
    return FiLMSwinUNETR(1, 32, 12, TEXT_DIM, window_size=4)


@pytest.fixture
def header(bank: PromptBank, class_set: ClassSet, trained: FiLMSwinUNETR) -> dict[str, Any]:
    return describe_volume_weights(
        trained,
        class_set=class_set,
        bank=bank,
        spacing=(1.5, 1.5, 1.5),
        roi_size=(64, 64, 64),
        max_classes_per_prompt=16,
        trained_classes=["spleen", "liver"],
    )


@pytest.fixture
def path(tmp_path: Path, trained: FiLMSwinUNETR, header: dict[str, Any]) -> Path:
    file = tmp_path / "models" / "model.safetensors"
    save_weights(trained, file, header=header, provenance={"epoch": 3})
    return file


def forge(path: Path, **changes: Any) -> None:
    """Change entries of a file's header."""
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    metadata["header"] = json.dumps(changed_header(json.loads(metadata["header"]), **changes))
    save_file({name: value.clone() for name, value in load_file(path).items()}, path, metadata)


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_weights_come_back_bit_for_bit(
    path: Path, trained: FiLMSwinUNETR, network: FiLMSwinUNETR, header: dict[str, Any], bank: PromptBank
) -> None:
    assert not same(network.state_dict(), trained.state_dict())
    assert load_volume_weights(network, path, header=header, bank=bank) is network
    assert same(network.state_dict(), trained.state_dict())
    assert network.default_text.any()


def test_the_header_says_what_the_weights_are(path: Path, class_set: ClassSet) -> None:
    assert read_header(path) == {
        "network": "FiLMSwinUNETR",
        "settings": {"variant": "film", "feature_size": 12, "window_size": 4, "text_dim": TEXT_DIM},
        "volume": {
            "class_set": "ct",
            "classes": list(class_set.names),
            "trained_classes": ["spleen", "liver"],
            "default_prompt": class_set.default_prompt,
            "max_classes_per_prompt": 2,
            "spacing": [1.5, 1.5, 1.5],
            "roi_size": [64, 64, 64],
            "intensity_window": [-175, 250],
            "text_encoder": "minilm",
            "text_kind": "mean",
            "text_dim": TEXT_DIM,
        },
        "provenance": {"epoch": 3},
    }


def test_a_config_reads_what_the_weights_state(path: Path) -> None:
    trained = read_volume_settings(path, network="FiLMSwinUNETR", feature_size=48)
    assert (trained.feature_size, trained.spacing, trained.text_kind) == (12, [1.5, 1.5, 1.5], "mean")
    absent = read_volume_settings(path.parent / "none", network="FiLMSwinUNETR", feature_size=48)
    assert (absent.feature_size, absent.text_encoder, absent.trained_classes) == (48, "clip", [])
    with pytest.raises(ValueError, match=r"are of FiLMSwinUNETR, and this bundle runs UNETR\. Run the bundle of that"):
        read_volume_settings(path, network="UNETR")


FORMAT_1 = {
    **{"text_encoder": "minilm", "text_kind": "mean", "text_dim": TEXT_DIM, "variant": "film", "feature_size": 12},
    **{"window_size": 4, "spacing": [1.5] * 3, "roi_size": [64] * 3, "intensity_window": [-175, 250]},
    **{"max_classes": 2, "labelled": ["spleen", "liver"], "class_set": "ct"},
}


def test_files_of_the_format_before_still_load(
    path: Path, class_set: ClassSet, network: FiLMSwinUNETR, header: dict[str, Any], bank: PromptBank
) -> None:
    flat = FORMAT_1 | {"classes": list(class_set.names), "default_prompt": class_set.default_prompt}
    state = {name: value.clone() for name, value in load_file(path).items()}
    metadata = {"format": "deep-film-weights-1", "header": json.dumps(flat), "provenance": '{"epoch": 3}'}
    save_file(state, path, metadata)
    assert read_header(path) == header | {"provenance": {"epoch": 3}}
    load_volume_weights(network, path, header=header, bank=bank)
    assert same(network.state_dict(), state)


def test_shipped_weights_are_read(class_set: ClassSet) -> None:
    for bundle, variant in (("film_swinunetr", "film"), ("film2_swinunetr", "film2")):
        held = read_header(BUNDLES / bundle / "models" / "demo.safetensors")
        assert (held["network"], held["settings"]["variant"]) == ("FiLMSwinUNETR", variant)
        assert len(held["volume"]["trained_classes"]) == 20 and held["volume"]["classes"] == list(class_set.names)


@pytest.mark.parametrize("text", ["$__import__('os').getcwd()", "@weights", "%/etc/passwd"])
def test_texts_of_a_header_are_never_evaluated(path: Path, text: str) -> None:
    forge(path, text_encoder=text)
    with pytest.raises(ValueError, match="must be plain"):
        read_header(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("feature_size", "12"),
        ("feature_size", {"_target_": "os.getcwd"}),
        ("window_size", True),
        ("trained_classes", "liver"),
        ("max_classes_per_prompt", 1.5),
        ("spacing", 3),
        ("text_encoder", 5),
        ("feature_size", 0),
        ("window_size", -7),
        ("text_dim", -1),
        ("max_classes_per_prompt", 0),
        ("classes", []),
        ("classes", ["liver", "liver"]),
        ("classes", [1, 2]),
        ("trained_classes", ["gill"]),
        ("spacing", [3, 3]),
        ("spacing", ["3", 3, 3]),
        ("spacing", [3, 0, 3]),
        ("roi_size", [64, 64.5, 64]),
        ("intensity_window", [250, -175]),
    ],
)
def test_an_entry_of_another_type_or_value_is_refused_by_name(path: Path, key: str, value: Any) -> None:
    forge(path, **{key: value})
    with pytest.raises(ValueError, match=re.escape(f"its header has {key} {value!r}")):
        read_header(path)


@pytest.mark.parametrize("provenance", [["phantoms"], {"data": "phantoms"}, "phantoms"])
def test_a_provenance_of_another_form_is_refused(path: Path, provenance: Any) -> None:
    save_file(load_file(path), path, {"format": FORMAT, "header": "{}", "provenance": json.dumps(provenance)})
    with pytest.raises(ValueError, match="provenance and its data must be objects"):
        read_header(path)


def test_numbers_of_a_header_are_numbers(path: Path) -> None:
    """Resampling to NaN millimetres gives an empty mask."""
    forge(path, spacing=[math.nan] * 3)
    with pytest.raises(ValueError, match=r"its header cannot be read: .*NaN is no number"):
        read_header(path)


@pytest.mark.parametrize(
    ("key", "there", "advice"),
    [
        ("feature_size", 24, "feature_size is 24 there and 12 here. Pass --feature_size 24"),
        ("window_size", 7, "Pass --network_def::window_size 7"),
        ("variant", "film2", 'variant is "film2" there and "film" here. Pass --network_def::variant "film2"'),
        ("text_encoder", "clip", 'Pass --text_encoder "clip"'),
        ("text_kind", "projected", 'Pass --bank::encoder::kind "projected"'),
        ("text_dim", 512, "text_dim is 512 there and 16 here"),
        ("spacing", [3, 3, 3], "Pass --spacing [3, 3, 3]"),
        ("intensity_window", [0, 1], "intensity_window is [0, 1] there and [-175, 250] here"),
        ("classes", ["liver"], "1 classes there and 32 here, the first that differs: 1"),
    ],
)
def test_another_network_is_refused_with_its_setting(
    path: Path, network: FiLMSwinUNETR, header: dict[str, Any], bank: PromptBank, key: str, there: Any, advice: str
) -> None:
    before = deepcopy(network.state_dict())
    forge(path, **{key: there}, **({"trained_classes": there} if key == "classes" else {}))
    with pytest.raises(ValueError, match="do not fit this run") as caught:
        load_volume_weights(network, path, header=header, bank=bank)
    assert advice in str(caught.value)
    assert str(path) in str(caught.value)
    assert same(network.state_dict(), before)


@pytest.mark.parametrize(("key", "value"), [("max_classes_per_prompt", 3), ("class_set", "mine")])
def test_what_only_describes_the_training_may_differ(
    path: Path, network: FiLMSwinUNETR, header: dict[str, Any], bank: PromptBank, key: str, value: Any
) -> None:
    forge(path, **{key: value})
    load_volume_weights(network, path, header=header, bank=bank)
    assert network.default_text.any()


def lose_a_tensor(state: State) -> None:
    del state["film.dec4.gamma.weight"]


def add_a_tensor(state: State) -> None:
    state["film.dec5.gamma.weight"] = torch.zeros(1)


def change_a_shape(state: State) -> None:
    state["out.conv.conv.bias"] = torch.zeros(31)


@pytest.mark.parametrize("change", [lose_a_tensor, add_a_tensor, change_a_shape])
def test_every_tensor_must_fit(
    path: Path, network: FiLMSwinUNETR, header: dict[str, Any], bank: PromptBank, change: Callable[[State], None]
) -> None:
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    state = {name: value.clone() for name, value in load_file(path).items()}
    change(state)
    save_file(state, path, metadata)
    with pytest.raises(ValueError, match="another network than their header says"):
        load_volume_weights(network, path, header=header, bank=bank)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def checkpoint(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path)


def pickled(path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, path)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (Path.unlink, FileNotFoundError, "There are no trained weights at .*--weights"),
        (cut, ValueError, "not a safetensors file, or it is cut short"),
        (lambda path: path.write_bytes(b""), ValueError, "not a safetensors file"),
        (lambda path: path.write_text("<html>" * 99), ValueError, "not a safetensors file"),
        (pickled, ValueError, "not a safetensors file"),
        (checkpoint, ValueError, "not a weights file of this project: format None"),
    ],
)
def test_what_is_no_whole_weights_file_is_refused(
    path: Path,
    network: FiLMSwinUNETR,
    header: dict[str, Any],
    bank: PromptBank,
    damage: Callable[[Path], object],
    error: type[Exception],
    message: str,
) -> None:
    damage(path)
    with pytest.raises(error, match=message) as caught:
        load_volume_weights(network, path, header=header, bank=bank)
    assert str(path) in str(caught.value)


def test_another_model_behind_the_same_encoder_is_refused(
    path: Path, network: FiLMSwinUNETR, header: dict[str, Any], tmp_path: Path
) -> None:
    other = PromptBank(encoder=RandomEncoder(seed=1))
    with pytest.raises(ValueError, match=r"trained with another model behind text encoder 'minilm'.*--text_model"):
        load_volume_weights(network, path, header=header, bank=other)


def test_a_bank_that_cannot_have_the_default_prompt_does_not_hinder(
    path: Path, trained: FiLMSwinUNETR, network: FiLMSwinUNETR, header: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "bank.safetensors"
    filled = PromptBank(file, RandomEncoder())
    filled("liver")
    filled.save()
    load_volume_weights(network, path, header=header, bank=PromptBank(file))
    assert same(network.state_dict(), trained.state_dict())


def test_shipped_weights_are_half_as_large_and_say_where_they_come_from(
    path: Path, trained: FiLMSwinUNETR, network: FiLMSwinUNETR, header: dict[str, Any], bank: PromptBank, tmp_path: Path
) -> None:
    data, scores, shipped = tmp_path / "data", tmp_path / "scores.json", tmp_path / "demo.safetensors"
    data.mkdir()
    (data / "dataset.json").write_text(json.dumps({"name": "phantom", "seed": 7, "labels": {}, "training": [1, 2]}))
    rows = [("all", "liver", 0.5), ("all", "all classes", 0.25), ("10_03", "all classes", 0.75)]
    scores.write_text(json.dumps([dict(zip(("dataset", "name", "dice"), row, strict=True)) for row in rows]))
    arguments = {
        "weights": path,
        "output": shipped,
        "dataset_dir": data,
        "scores": scores,
        "command": "make it",
    }
    done = run_python("scripts/ship_weights.py", *(f"--{name}={value}" for name, value in arguments.items()))
    assert not done.returncode, done.stderr
    assert shipped.stat().st_size < 0.55 * path.stat().st_size
    assert {key: value for key, value in read_header(shipped).items() if key != "provenance"} == header
    assert read_header(shipped)["provenance"] == {
        "epoch": 3,
        "command": "make it",
        "precision": "float16",
        "data": {"name": "phantom", "seed": 7, "training_cases": 2},
        "test": [{"dataset": "all", "name": "all classes", "dice": 0.25}],
    }
    load_volume_weights(network, shipped, header=header, bank=bank)
    image, text = torch.rand(1, 1, 64, 64, 32), bank("liver")
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(image, text), trained.eval()(image, text), atol=2e-2, rtol=0)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32, torch.int64}


def test_tensors_and_header_are_of_one_file(header: dict[str, Any], tmp_path: Path) -> None:
    """A training replaces the file while it is read: header and tensors must not be those of two files."""
    path, contents = tmp_path / "model.safetensors", []
    for value in (0.0, 1.0):
        network = torch.nn.Linear(300, 300)
        for parameter in network.parameters():
            torch.nn.init.constant_(parameter, value)
        save_weights(network, path, header=header, provenance={"value": value})
        contents.append(path.read_bytes())
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for content in contents:
                other = tmp_path / "other"
                other.write_bytes(content)
                other.replace(path)

    replacing = threading.Thread(target=replace)
    replacing.start()
    try:
        for _ in range(300):
            state, held = read_weights(path)
            assert {float(value) for tensor in state.values() for value in tensor.flatten().tolist()} == {
                held["provenance"]["value"]
            }
    finally:
        stop.set()
        replacing.join()


def test_another_network_is_refused_with_the_contract(class_set: ClassSet, bank: PromptBank) -> None:
    network = UNet(spatial_dims=3, in_channels=1, out_channels=32, channels=(4, 8), strides=(2,))
    with pytest.raises(
        ValueError, match=r"network_def must be one of custom\.networks\.FiLMSwinUNETR.*not UNet: .*text"
    ):
        describe_volume_weights(
            network,
            class_set=class_set,
            bank=bank,
            spacing=[3, 3, 3],
            roi_size=[64, 64, 32],
            max_classes_per_prompt=15,
            trained_classes=["liver"],
        )
