"""Checkpoints of public codes: each layout comes back as the same network, and nothing unexplained is written."""

import csv
import json
import pickle
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from monai.networks import nets
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from custom.anatomy.class_set import ClassSet
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.networks.swin_unetr import SwinUNETR
from custom.networks.unetr import UNETR
from custom.networks.universal_swin_unetr import UniversalSwinUNETR
from custom.text.bank import PromptBank
from custom.text.no_text import NoText
from custom.tools.conversion.checkpoints import Text, convert_network
from custom.tools.conversion.prompt_banks import GivenVectors
from custom.weights.header import read_header
from custom.weights.layouts import read_public_checkpoint
from custom.weights.volume import describe_volume_weights, load_volume_weights
from tests.helpers.public_checkpoints import State, authors, old_mlp, universal
from tests.helpers.warm_python import run_python

TEXT_DIM = 16
SWIN = {"feature_size": 12, "window_size": 4}
WINDOW = [64, 64, 32]


def build(family: str) -> Any:
    """A small network of ours."""
    if family == "universal":
        return UniversalSwinUNETR(1, 32, text_dim=TEXT_DIM, **SWIN)  # type: ignore[arg-type]
    if family == "swinunetr":
        return SwinUNETR(1, 32, **SWIN)
    if family == "unetr":
        return UNETR(1, 32, WINDOW, feature_size=4, hidden_size=48)
    return FiLMSwinUNETR(1, 32, text_dim=TEXT_DIM, variant=family, **SWIN)  # type: ignore[arg-type]


def monai(state: State, family: str) -> Any:
    return {"state_dict": {f"module.{name}": tensor for name, tensor in old_mlp(state).items()}}


def without_computed(state: State, family: str) -> Any:
    return {name: tensor for name, tensor in state.items() if "relative_position_index" not in name}


def old_unetr(state: State, family: str) -> Any:
    """As older MONAI: patches as rows of a matrix, a class token, no layers for cross attention."""
    content = {name: tensor for name, tensor in state.items() if "cross_attn" not in name}
    weight = content.pop("vit.patch_embedding.patch_embeddings.weight")
    content["vit.patch_embedding.patch_embeddings.1.weight"] = weight.permute(0, 2, 3, 4, 1).flatten(1)
    content["vit.patch_embedding.patch_embeddings.1.bias"] = content.pop("vit.patch_embedding.patch_embeddings.bias")
    return content | {"vit.patch_embedding.cls_token": torch.zeros(1, 1, 48)}


class Case(NamedTuple):
    family: str
    layout: Callable[[State, str], Any]
    missing: dict[str, int]
    dropped: str = ""


COMPUTED = "computed by the network"
BESIDE = "beside the network's state"
CASES = [
    Case("film", authors, {"ours: the vector of the default prompt": 1}, "frozen text encoder"),
    Case("film2", authors, {"ours: the vector of the default prompt": 1}, "frozen text encoder"),
    Case("bottleneck", authors, {"ours: the vector of the default prompt": 1}, "frozen text encoder"),
    Case("universal", universal, {}, "head of the plain SwinUNETR"),
    Case("swinunetr", monai, {}),
    Case("swinunetr", without_computed, {COMPUTED: 8}),
    Case("unetr", old_unetr, {"unused by UNETR": 24}, "class token"),
]


@pytest.fixture(scope="module")
def networks() -> Callable[[str], nn.Module]:
    """One network of each family, no parameter of which has its initial value."""
    made: dict[str, nn.Module] = {}

    def network(family: str) -> nn.Module:
        if family not in made:
            with torch.random.fork_rng():
                torch.manual_seed(len(made))
                made[family] = build(family).eval()
                for tensor in (*made[family].parameters(), *made[family].buffers()):
                    if tensor.is_floating_point() and tensor is not made[family].state_dict().get("default_text"):
                        tensor.data += 0.05 * torch.randn(tensor.shape)
        return made[family]

    return network


@pytest.fixture
def text(tmp_path: Path) -> Text:
    """The kind is stated; the encoder's files are nowhere."""
    return Text("clip", "pooled", model=str(tmp_path / "nowhere"))


@pytest.fixture
def film(tmp_path: Path, networks: Callable[[str], nn.Module]) -> Path:
    """A checkpoint of the author's Deep FiLM."""
    path = tmp_path / "epoch_160.pth"
    torch.save(authors(networks("film").state_dict(), "film"), path)
    return path


def convert(source: Path, class_set: ClassSet, text: Text, **options: Any) -> Path:
    output = source.with_name("converted.safetensors")
    output.unlink(missing_ok=True)
    options = {"trained_classes": class_set.names, "roi_size": WINDOW} | options
    convert_network(source, output, class_set=class_set, text=text, **options)
    return output


def header_of(family: str, class_set: ClassSet) -> dict[str, Any]:
    """The header of a run of this family."""
    return describe_volume_weights(
        build(family),
        class_set=class_set,
        bank=NoText() if family in ("swinunetr", "unetr") else NoText("clip", "pooled", TEXT_DIM),
        spacing=class_set.spacing,
        roi_size=WINDOW,
        max_classes_per_prompt=15,
        trained_classes=class_set.names,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}-{case.layout.__name__}")
def test_every_layout_comes_back_as_the_same_network(
    case: Case, networks: Callable[[str], nn.Module], tmp_path: Path, class_set: ClassSet, text: Text
) -> None:
    there, here = networks(case.family), build(case.family).eval()
    source = tmp_path / "checkpoint.pth"
    torch.save(case.layout(there.state_dict(), case.family), source)
    reads_text = case.family not in ("swinunetr", "unetr")
    output = convert(source, class_set, text if reads_text else Text("clip", None))
    header = header_of(case.family, class_set)
    load_volume_weights(here, output, header=header, bank=NoText())
    image, vector = torch.rand(1, 1, *WINDOW), torch.randn(1, TEXT_DIM)
    with torch.no_grad():
        logits = there(image, vector)
        assert torch.equal(here(image, vector), logits)
    assert logits.std() > 0.01
    held = read_header(output)
    assert {key: held[key] for key in header} == header
    assert held["provenance"]["converted"] is True and held["provenance"]["family"] == case.family
    with Path(f"{output}.keys.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["reason"] != BESIDE]
    assert Counter(row["reason"] for row in rows if row["mapping"] == "missing") == case.missing
    assert all(row["reason"].startswith(case.dropped) for row in rows if row["mapping"] == "dropped")
    assert any(row["mapping"] == "dropped" for row in rows) == bool(case.dropped)
    mapped = {row["ours"] for row in rows if row["mapping"] != "dropped"}
    assert mapped == set(there.state_dict())


def test_monais_own_networks_compute_alike(tmp_path: Path, class_set: ClassSet) -> None:
    """Not through our classes: MONAI's SwinUNETR, and its UNETR with patches as rows of a matrix."""
    torch.manual_seed(0)
    image = torch.rand(1, 1, *WINDOW)
    unetr = {"feature_size": 4, "hidden_size": 48, "mlp_dim": 192}  # and MONAI's default heads
    for family, theirs in (
        ("swinunetr", nets.SwinUNETR(1, 32, feature_size=12, window_size=4)),
        ("unetr", nets.UNETR(1, 32, tuple(WINDOW), proj_type="perceptron", **unetr)),
    ):
        source = tmp_path / f"{family}.pt"
        torch.save(theirs.state_dict(), source)
        here = build(family).eval()
        output = convert(source, class_set, Text("clip", None), family=family)
        load_volume_weights(here, output, header=header_of(family, class_set), bank=NoText())
        with torch.no_grad():
            torch.testing.assert_close(here(image), theirs.eval()(image), atol=1e-4, rtol=0)


def test_a_cubic_unetr_knows_its_window(tmp_path: Path, class_set: ClassSet) -> None:
    source = tmp_path / "unetr.pt"
    torch.save(UNETR(1, 32, [64, 64, 64], feature_size=4, hidden_size=48).state_dict(), source)
    output = convert(source, class_set, Text("clip", None), roi_size=None)
    assert read_header(output)["settings"]["img_size"] == read_header(output)["volume"]["roi_size"] == [64, 64, 64]
    with pytest.raises(ValueError, match=r"64 position embeddings.*a window of \[96, 96, 96\] has 216.*--roi_size"):
        convert(source, class_set, Text("clip", None), roi_size=[96, 96, 96])


def test_a_network_saved_on_a_gpu_in_half_precision_is_read_on_the_cpu(
    networks: Callable[[str], nn.Module], tmp_path: Path, class_set: ClassSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "half.pth"
    state = networks("swinunetr").state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save({"model": {n: t.half() if t.is_floating_point() else t for n, t in state.items()}}, source)
    output = convert(source, class_set, Text("clip", None))
    assert load_file(output)["out.conv.conv.weight"].dtype == torch.float32


def test_the_default_prompts_vector_comes_from_a_bank_or_is_zeros(
    film: Path, class_set: ClassSet, text: Text, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    given = {class_set.default_prompt: torch.arange(TEXT_DIM).float()}
    bank = PromptBank(tmp_path / "bank.safetensors", GivenVectors(given, encoder_id="clip", kind="pooled"))
    bank(list(given))
    header, network = header_of("film", class_set), build("film")
    output = convert(film, class_set, text)
    assert "Zeros stand for the prompt's vector" in caplog.text
    assert "zeros" in read_header(output)["provenance"]["default_text"]
    load_volume_weights(network, output, header=header, bank=bank)  # which would refuse another vector than the bank's
    assert not network.get_buffer("default_text").any()
    bank.save()
    output = convert(film, class_set, text._replace(bank=str(bank.path)))
    load_volume_weights(network, output, header=header, bank=bank)
    assert torch.equal(network.get_buffer("default_text")[0], given[class_set.default_prompt])
    short = {class_set.default_prompt: torch.ones(8)}
    other = PromptBank(tmp_path / "short.safetensors", GivenVectors(short, encoder_id="clip", kind="pooled"))
    other(list(short))
    other.save()
    with pytest.raises(ValueError, match="reads text vectors of length 16; those of 'clip', 'pooled' here have 8"):
        convert(film, class_set, text._replace(bank=str(other.path)))


def change(path: Path, alter: Callable[[State], object]) -> None:
    content = torch.load(path, weights_only=True)
    alter(content["net"])
    torch.save(content, path)


GAMMA = "module.deep_film_block.1.gamma.weight"


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda net: net.update({"module.extra.weight": torch.zeros(1)}), r"does not explain 1 .*: module\.extra\."),
        (lambda net: net.update({f"module.x{i}": torch.zeros(1) for i in range(12)}), r"explain 12 .*x9 and 2 more"),
        (lambda net: net.update({"module.swin_unetr.encoder7.a": torch.zeros(1)}), r"1 without counterpart: .*er7\.a"),
        (lambda net: net.pop("module.swin_unetr.out.conv.conv.bias"), r"1 missing: out\.conv\.conv\.bias"),
        (lambda net: net.pop(GAMMA), r"1 missing: film\.dec2\.gamma\.weight"),
        (lambda net: net.update({GAMMA: torch.zeros(3, 16)}), r"of another shape: .* \(3, 16\) instead of \(48, 16\)"),
        (lambda net: net[GAMMA].fill_(float("nan")), r"NaN or infinity in 1 tensors: module\.deep_film_block\.1"),
        (lambda net: net.pop("module.swin_unetr.swinViT.patch_embed.proj.weight"), "lacks swinViT.patch_embed"),
        (
            lambda net: net.update({GAMMA.removeprefix("module."): torch.zeros(1)}),
            r"holds film\.\S+ twice, as module\.",
        ),
        (
            lambda net: net["module.swin_unetr.swinViT.layers1.0.blocks.0.attn.relative_position_index"].zero_(),
            "1 of other values than the network computes",
        ),
        (
            lambda net: net.update({"module.swin_unetr.swinViT.patch_embed.proj.weight": torch.zeros(12, 4, 2, 2, 2)}),
            "images of 4 channels",
        ),
        (lambda net: net.update({"module.swin_unetr.swinViT.layers1c.0.a": torch.zeros(1)}), "SwinUNETR-V2"),
    ],
)
def test_what_is_not_explained_writes_nothing(
    film: Path, class_set: ClassSet, text: Text, alter: Callable[[State], object], message: str
) -> None:
    change(film, alter)
    with pytest.raises(ValueError, match=message) as caught:
        convert(film, class_set, text)
    assert str(film) in str(caught.value)
    assert [path.name for path in film.parent.iterdir()] == [film.name]


def with_beside(content: dict[str, Any]) -> None:
    content["model"] = {"weight": torch.zeros(1)}


def with_a_number(content: dict[str, Any]) -> None:
    content["net"]["module.mean"] = [1, 2]


def quantised(content: dict[str, Any]) -> None:
    content["net"] = {name: tensor.to(torch.int8) for name, tensor in content["net"].items()}


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (with_beside, "holds several states, net and model"),
        (with_a_number, r"1 values among its tensors that are none: module\.mean"),
        (quantised, r"parameters that are no floating-point numbers: .* torch\.int8"),
    ],
)
def test_a_file_that_is_no_plain_state_writes_nothing(
    film: Path, class_set: ClassSet, text: Text, alter: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = torch.load(film, weights_only=True)
    alter(content)
    torch.save(content, film)
    with pytest.raises(ValueError, match=message):
        convert(film, class_set, text)
    assert [path.name for path in film.parent.iterdir()] == [film.name]


def test_what_lies_beside_the_network_is_reported(film: Path, class_set: ClassSet, text: Text) -> None:
    with Path(f"{convert(film, class_set, text)}.keys.csv").open(newline="") as stream:
        beside = {row["key"] for row in csv.DictReader(stream) if row["reason"] == BESIDE}
    assert beside == {"epoch", "optimizer", "scheduler"}


def test_nothing_that_exists_is_replaced_and_our_own_files_stay_as_they_are(
    film: Path, class_set: ClassSet, text: Text
) -> None:
    output = convert(film, class_set, text)
    before = output.read_bytes()
    with pytest.raises(ValueError, match=r"converted\.safetensors exists already"):
        convert_network(film, output, class_set=class_set, text=text, trained_classes=class_set.names)
    assert output.read_bytes() == before
    again = output.with_name("again.safetensors")
    with pytest.raises(ValueError, match="is a weights file of this project already"):
        convert_network(output, again, class_set=class_set, text=text, trained_classes=class_set.names)
    assert not again.exists()


def test_vectors_have_their_encoders_length(film: Path, class_set: ClassSet, text: Text) -> None:
    with pytest.raises(ValueError, match="Vectors of 'clip' have 512 numbers, not 16"):
        convert(film, class_set, text._replace(model=None))


def test_wrong_settings_say_what_to_do(film: Path, class_set: ClassSet, text: Text) -> None:
    with pytest.raises(ValueError, match="said to be of family 'universal', but its names are those of 'film'"):
        convert(film, class_set, text, family="universal")
    with pytest.raises(ValueError, match=r"family must be one of film2, film, bottleneck, universal.*not 'resnet'"):
        convert(film, class_set, text, family="resnet")
    with pytest.raises(ValueError, match=r"state --text_kind.*'pooled'.*'projected'"):
        convert(film, class_set, text._replace(kind=None))
    with pytest.raises(ValueError, match="must be 'pooled' or 'projected', not 'mean'"):
        convert(film, class_set, text._replace(kind="mean"))
    with pytest.raises(ValueError, match="roi_size must be three multiples of 32"):
        convert(film, class_set, text, roi_size=96)
    with pytest.raises(ValueError, match="spacing must be three positive numbers"):
        convert(film, class_set, text, spacing=3)
    with pytest.raises(ValueError, match="spacing must be three positive numbers"):
        convert(film, class_set, text, spacing=[1.5, 1.5, float("nan")])
    with pytest.raises(ValueError, match=r"must be a \.safetensors file"):
        convert_network(film, "model.pt", class_set=class_set, text=text, trained_classes=["liver"])
    change(film, lambda net: net.update({"module.swin_unetr.out.conv.conv.weight": torch.zeros(14, 12, 1, 1, 1)}))
    with pytest.raises(
        ValueError, match=r"14 classes and the class set 'ct' has 32.*--pretraining::new_head True.*softmax.*BTCV"
    ):
        convert(film, class_set, text)
    assert [path.name for path in film.parent.iterdir()] == [film.name]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["organ_embedding.weight", "controller.weight"], "rand_embedding"),
        (["organ_embedding", "backbone.down_tr64.ops.0.conv1.weight"], "another backbone than SwinUNETR"),
        (["film.dec4.gamma.weight"], "without the header"),
        (["layer1.0.conv1.weight"], "none of the known layouts .*: layer1.0.conv1.weight"),
        (["vit.norm.weight"], "lacks encoder1.layer.conv1.conv.weight"),
    ],
)
def test_other_networks_are_refused_with_words(tmp_path: Path, names: list[str], message: str) -> None:
    path = tmp_path / "other.pth"
    torch.save({f"module.{name}": torch.zeros(1) for name in names}, path)
    with pytest.raises(ValueError, match=message):
        read_public_checkpoint(path)


def test_a_network_with_text_reads_no_other(networks: Callable[[str], nn.Module], tmp_path: Path) -> None:
    source = tmp_path / "plain.safetensors"
    save_file(networks("swinunetr").state_dict(), source)
    checkpoint = read_public_checkpoint(source)
    assert checkpoint.sizes == {"feature_size": 12, "window_size": 4, "classes": 32}
    assert checkpoint.state.keys() == networks("swinunetr").state_dict().keys()


def self_supervised(state: State) -> Any:
    """As MONAI's model_swinvit.pt: the encoder alone, bare, and what the pretext tasks needed."""
    bare = {name.removeprefix("swinViT."): tensor for name, tensor in old_mlp(state).items() if "swinViT." in name}
    heads = ("norm", "rotation_head", "contrastive_head", "convTrans3d")
    bare |= {f"{head}.{part}": torch.zeros(1) for head in heads for part in ("weight", "bias")}
    return {"state_dict": {f"module.{name}": tensor for name, tensor in bare.items()}, "epoch": 1}


def test_a_self_supervised_encoder_becomes_a_file_to_start_from(
    networks: Callable[[str], nn.Module], tmp_path: Path, class_set: ClassSet
) -> None:
    source = tmp_path / "model_swinvit.pt"
    state = networks("swinunetr").state_dict()
    torch.save(self_supervised(state), source)
    output = convert(source, class_set, Text("clip", None))
    assert load_file(output).keys() == {name for name in state if name.startswith("swinViT.")}
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(output).items())
    with safe_open(str(output), framework="pt") as file:
        assert json.loads(file.metadata()["provenance"])["source"] == "model_swinvit.pt"
    with pytest.raises(ValueError, match="a pretrained image encoder and no network to run: train with --pretrained"):
        load_volume_weights(build("swinunetr"), output, header=header_of("swinunetr", class_set), bank=NoText())
    assert read_public_checkpoint(output).layout.name == "swin_ssl"


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_malicious_checkpoint_runs_nothing(
    tmp_path: Path, class_set: ClassSet, text: Text, save: Callable[[Any, Path], object]
) -> None:
    source, witness = tmp_path / "bad.pth", tmp_path / "witness"
    save({"net": {"a": torch.zeros(1)}, "optimizer": Malicious(witness)}, source)
    with pytest.raises(ValueError, match="holds more than tensors, or is damaged, and was not loaded"):
        convert(source, class_set, text)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    torch.load(source, weights_only=False) if save is torch.save else pickle.loads(source.read_bytes())
    assert witness.exists()  # it was armed


def test_cut_files_and_rubbish_are_refused(film: Path, class_set: ClassSet, text: Text) -> None:
    for content in (film.read_bytes()[:-999], b"", b"<html>", bytes(range(256)) * 9):
        film.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            convert(film, class_set, text)
    film.unlink()
    with pytest.raises(FileNotFoundError, match="--source"):
        convert(film, class_set, text)


def run(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run_python("scripts/convert_weights.py", command, *arguments)


def test_the_script_converts_and_says_what_became_of_the_keys(
    film: Path, class_set: ClassSet, text: Text, networks: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    output = tmp_path / "out" / "model.safetensors"
    arguments = [
        "--source",
        film,
        "--output",
        output,
        "--roi_size",
        "[64,64,32]",
        "--trained_classes",
        "liver, both kidneys",
    ]
    done = run("network", *arguments, "--text_kind", "pooled", "--text_model", text.model)
    assert not done.returncode, done.stderr
    assert "mapped" in done.stdout and "dropped: frozen text encoder" in done.stdout and "Zeros stand" in done.stderr
    assert read_header(output)["volume"]["trained_classes"] == ["right kidney", "left kidney", "liver"]
    assert "convert_weights.py network" in read_header(output)["provenance"]["command"]
    universal_source = tmp_path / "universal.pth"
    torch.save(universal(networks("universal").state_dict(), "universal"), universal_source)
    output = tmp_path / "out" / "universal.safetensors"
    arguments = ["--source", universal_source, "--output", output, "--text_model", text.model]
    done = run("network", *arguments, "--text_kind", "projected")
    assert not done.returncode, done.stderr
    header = read_header(output)
    assert header["network"] == "UniversalSwinUNETR"
    assert [header["volume"][key] for key in ("text_kind", "text_dim")] == ["projected", 16]
    assert torch.equal(load_file(output)["text_bank"], networks("universal").get_buffer("text_bank"))
