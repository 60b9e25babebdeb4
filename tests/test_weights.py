"""Weights files: what their header says, what is refused and with which advice, and where a training may start from."""

import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import SwinUNETR
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from custom.anatomy import ClassSet
from custom.networks import FiLMSwinUNETR
from custom.text import PromptBank
from custom.weights import describe_weights, header_value, load_weights, read_header, save_weights, start_from

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
def header(bank: PromptBank, class_set: ClassSet) -> dict[str, Any]:
    return describe_weights(
        class_set=class_set,
        bank=bank,
        architecture={"variant": "film", "feature_size": 12, "window_size": 4},
        spacing=(1.5, 1.5, 1.5),
        roi_size=(64, 64, 64),
        max_classes=16,
        labelled=["spleen", "liver"],
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
    header = json.dumps(json.loads(metadata["header"]) | changes)
    save_file({name: value.clone() for name, value in load_file(path).items()}, path, metadata | {"header": header})


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_weights_come_back_bit_for_bit(
    path: Path, trained: FiLMSwinUNETR, network: FiLMSwinUNETR, header: dict[str, Any], bank: PromptBank
) -> None:
    assert not same(network.state_dict(), trained.state_dict())
    assert load_weights(network, path, header=header, bank=bank) is network
    assert same(network.state_dict(), trained.state_dict())
    assert network.default_text.any()


def test_the_header_says_what_the_weights_are(path: Path, class_set: ClassSet) -> None:
    assert read_header(path) == {
        "text_encoder": "minilm",
        "text_kind": "mean",
        "text_dim": TEXT_DIM,
        "variant": "film",
        "feature_size": 12,
        "window_size": 4,
        "spacing": [1.5, 1.5, 1.5],
        "roi_size": [64, 64, 64],
        "intensity_window": [-175, 250],
        "max_classes": 2,
        "labelled": ["spleen", "liver"],
        "class_set": "ct",
        "classes": list(class_set.names),
        "default_prompt": class_set.default_prompt,
        "provenance": {"epoch": 3},
    }
    assert header_value(path, "feature_size", 48) == 12
    assert header_value(path.parent / "none", "feature_size", 48) == 48


@pytest.mark.parametrize(
    ("key", "there", "advice"),
    [
        ("feature_size", 24, "feature_size is 24 there and 12 here. Pass --feature_size 24"),
        ("window_size", 7, "Pass --window_size 7"),
        ("variant", "film2", 'variant is "film2" there and "film" here. Pass --variant "film2"'),
        ("text_encoder", "clip", 'Pass --text_encoder "clip"'),
        ("text_kind", "projected", 'Pass --text_kind "projected"'),
        ("text_dim", 512, "text_dim is 512 there and 16 here"),
        ("spacing", [3, 3, 3], "Pass --spacing [3, 3, 3]"),
        ("intensity_window", [0, 1], "intensity_window is [0, 1] there and [-175, 250] here"),
        ("classes", ["liver"], "1 classes there and 32 here, the first that differs: 1"),
    ],
)
def test_another_network_is_refused_with_its_knob(
    path: Path, network: FiLMSwinUNETR, header: dict[str, Any], bank: PromptBank, key: str, there: Any, advice: str
) -> None:
    before = deepcopy(network.state_dict())
    forge(path, **{key: there})
    with pytest.raises(ValueError, match="do not fit this run") as caught:
        load_weights(network, path, header=header, bank=bank)
    assert advice in str(caught.value)
    assert str(path) in str(caught.value)
    assert same(network.state_dict(), before)


@pytest.mark.parametrize(("key", "value"), [("max_classes", 3), ("class_set", "mine")])
def test_what_only_describes_the_training_may_differ(
    path: Path, network: FiLMSwinUNETR, header: dict[str, Any], bank: PromptBank, key: str, value: Any
) -> None:
    forge(path, **{key: value})
    load_weights(network, path, header=header, bank=bank)
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
        load_weights(network, path, header=header, bank=bank)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def foreign(path: Path) -> None:
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
        (foreign, ValueError, "not a weights file of this project: format None"),
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
        load_weights(network, path, header=header, bank=bank)
    assert str(path) in str(caught.value)


def test_another_model_behind_the_same_encoder_is_refused(
    path: Path, network: FiLMSwinUNETR, header: dict[str, Any], tmp_path: Path
) -> None:
    other = PromptBank(encoder=RandomEncoder(seed=1))
    with pytest.raises(ValueError, match=r"trained with another model behind text encoder 'minilm'.*--text_model"):
        load_weights(network, path, header=header, bank=other)


def test_a_bank_that_cannot_have_the_default_prompt_does_not_hinder(
    path: Path, trained: FiLMSwinUNETR, network: FiLMSwinUNETR, header: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "bank.safetensors"
    filled = PromptBank(file, RandomEncoder())
    filled("liver")
    filled.save()
    load_weights(network, path, header=header, bank=PromptBank(file))
    assert same(network.state_dict(), trained.state_dict())


def plain(state: State) -> Any:
    return state


def wrapped(state: State) -> Any:
    return {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 7}


def checkpoint(state: State) -> Any:
    return {"net": state, "optimizer": {"state": {}, "lr": 1e-4}}


def self_supervised(state: State) -> Any:
    """As MONAI's model_swinvit.pt: the encoder alone, bare, with the older names of its MLPs, and other heads."""
    names = {name: name.removeprefix("swinViT.") for name in state if name.startswith("swinViT.")}
    old = {f"module.{short.replace('.mlp.linear', '.mlp.fc')}": state[name] for name, short in names.items()}
    return {"state_dict": old | {"module.rotation_head.weight": torch.zeros(4, 192)}, "epoch": 1, "optimizer": {}}


@pytest.fixture(scope="module")
def published() -> State:
    """A plain MONAI SwinUNETR of 14 classes."""
    torch.manual_seed(3)
    return dict(SwinUNETR(1, 14, feature_size=12, window_size=4).state_dict())


@pytest.mark.parametrize(
    ("layout", "suffix", "modules"),
    [
        (plain, ".pt", ("swinViT.", "encoder", "decoder")),
        (wrapped, ".pt", ("swinViT.", "encoder", "decoder")),
        (checkpoint, ".pt", ("swinViT.", "encoder", "decoder")),
        (plain, ".safetensors", ("swinViT.", "encoder", "decoder")),
        (self_supervised, ".pt", ("swinViT.",)),
    ],
)
def test_a_training_starts_from_what_fits(
    network: FiLMSwinUNETR,
    published: State,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    layout: Callable[[State], Any],
    suffix: str,
    modules: tuple[str, ...],
) -> None:
    file = tmp_path / f"pretrained{suffix}"
    content = layout(published)
    save_file(content, file) if suffix == ".safetensors" else torch.save(content, file)
    fresh = deepcopy(network.state_dict())
    with caplog.at_level(logging.INFO, logger="custom.weights"):
        assert start_from(network, file) is network
    taken = {name for name in fresh if name.startswith(modules)}
    for name, value in network.state_dict().items():
        assert torch.equal(value, published[name] if name in taken else fresh[name]), name
    assert not torch.equal(network.swinViT.patch_embed.proj.weight, fresh["swinViT.patch_embed.proj.weight"])
    assert f"{len(taken)} of {len(fresh)} tensors taken" in caplog.text
    assert "film.dec4" in caplog.text and "out.conv" in caplog.text  # named as fresh


def test_starting_from_our_weights_keeps_this_runs_default_vector(network: FiLMSwinUNETR, path: Path) -> None:
    """The vector belongs to the text encoder of the run, which may be another one of the same dimension."""
    mine = torch.ones(1, TEXT_DIM)
    network.default_text.copy_(mine)
    start_from(network, path)
    assert torch.equal(network.out.conv.conv.weight, load_file(path)["out.conv.conv.weight"])
    assert torch.equal(network.default_text, mine)


def test_no_pretrained_weights_leave_the_network_alone(network: FiLMSwinUNETR) -> None:
    before = deepcopy(network.state_dict())
    assert start_from(network, None) is network
    assert same(network.state_dict(), before)


def test_a_swin_encoder_of_another_size_is_refused(network: FiLMSwinUNETR, tmp_path: Path) -> None:
    before = deepcopy(network.state_dict())
    file = tmp_path / "pretrained.pt"
    torch.save(SwinUNETR(1, 14, feature_size=24, window_size=4).state_dict(), file)
    with pytest.raises(
        ValueError, match=r"does not hold this network's Swin encoder.*--feature_size 48 --window_size 7"
    ):
        start_from(network, file)
    assert same(network.state_dict(), before)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("save", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))])
def test_a_malicious_pickle_runs_nothing(
    network: FiLMSwinUNETR, tmp_path: Path, save: Callable[[Any, Path], object]
) -> None:
    file, witness = tmp_path / "pretrained.pt", tmp_path / "witness"
    save({"state_dict": Malicious(witness)}, file)
    with pytest.raises(ValueError, match="holds more than tensors, or is damaged, and was not loaded"):
        start_from(network, file)
    assert not witness.exists()
    torch.load(file, weights_only=False) if save is torch.save else pickle.loads(file.read_bytes())
    assert witness.exists()  # it was armed


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.pt", None, "damaged"),
        ("empty.pt", b"", "damaged"),
        ("text.pt", b"hello world", "damaged"),
        ("text.safetensors", b"hello world", "damaged"),
        ("nothing.pt", {"state_dict": {"epoch": 3}}, "holds no tensors by name"),
        ("bare.pt", torch.zeros(3), "holds no tensors by name"),
        ("foreign.pt", {"weight": torch.zeros(3)}, "does not hold this network's Swin encoder"),
    ],
)
def test_what_holds_no_weights_is_refused(
    network: FiLMSwinUNETR, tmp_path: Path, name: str, content: Any, message: str
) -> None:
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save({"a": torch.zeros(999)} if content is None else content, file)
    if content is None:
        file.write_bytes(file.read_bytes()[:999])
    with pytest.raises(ValueError, match=message) as caught:
        start_from(network, file)
    assert str(file) in str(caught.value)


def test_absent_pretrained_weights_name_the_knob(network: FiLMSwinUNETR, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--pretrained"):
        start_from(network, tmp_path / "absent.pt")


def test_shipped_weights_are_half_as_large_and_say_where_they_come_from(
    path: Path, trained: FiLMSwinUNETR, network: FiLMSwinUNETR, header: dict[str, Any], bank: PromptBank, tmp_path: Path
) -> None:
    data, scores, shipped = tmp_path / "data", tmp_path / "scores.json", tmp_path / "demo.safetensors"
    data.mkdir()
    (data / "dataset.json").write_text(json.dumps({"name": "phantom", "seed": 7, "labels": {}, "training": [1, 2]}))
    scores.write_text(json.dumps([{"name": "liver", "dice": 0.5}, {"name": "all classes", "dice": 0.25}]))
    arguments = {
        "weights": path,
        "output": shipped,
        "dataset_dir": data,
        "scores": scores,
        "command": "make it",
    }
    command = [sys.executable, "scripts/ship_weights.py", *(f"--{name}={value}" for name, value in arguments.items())]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
    assert shipped.stat().st_size < 0.55 * path.stat().st_size
    assert {key: value for key, value in read_header(shipped).items() if key != "provenance"} == header
    assert read_header(shipped)["provenance"] == {
        "epoch": 3,
        "command": "make it",
        "precision": "float16",
        "data": {"name": "phantom", "seed": 7, "training_cases": 2},
        "test": [{"name": "all classes", "dice": 0.25}],
    }
    load_weights(network, shipped, header=header, bank=bank)
    image, text = torch.rand(1, 1, 64, 64, 32), bank("liver")
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(image, text), trained.eval()(image, text), atol=2e-2, rtol=0)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32, torch.int64}
