"""The prompt bank: vectors computed once, stored in a file, never mixed with those of another model."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import custom.text.bank
import custom.utils.files
from custom.text.bank import FORMAT, MissingPromptError, PromptBank
from custom.text.encoders import CLIPTextEncoder

PUBLIC_ROWS = Path(__file__).resolve().parents[3] / "shared/data/clip/clip_vit_b32_text_projected.npz"

TinyClip = Callable[[int], Path]


class LetterEncoder:
    """A simple text encoder: the counts of the letters. It records the prompts that it encodes."""

    def __init__(self, encoder_id: str = "letters", kind: str = "counts") -> None:
        self.encoder_id = encoder_id
        self.kind = kind
        self.dimension = 26
        self.encoded: list[str] = []

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        self.encoded += prompts
        return torch.tensor([[float(prompt.lower().count(chr(97 + at))) for at in range(26)] for prompt in prompts])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "banks" / "prompts.safetensors"


@pytest.fixture
def saved(path: Path) -> Path:
    """A bank file of two prompts."""
    bank = PromptBank(path, LetterEncoder())
    bank(["a liver", "The Spleen"])
    bank.save()
    return path


def clip_bank(path: Path, folder: Path, kind: str = "pooled") -> PromptBank:
    return PromptBank(path, CLIPTextEncoder(str(folder), kind=kind))


def prompts_in(path: Path) -> set[str]:
    with safe_open(str(path), framework="pt") as file:
        return set(json.loads(file.metadata()["prompts"]))


def test_a_file_holds_vectors_prompts_and_where_they_come_from(path: Path, tiny_clip: TinyClip) -> None:
    bank = clip_bank(path, tiny_clip(0), kind="projected")
    vectors = bank(["a liver", "the spleen"])
    bank.save()
    with safe_open(str(path), framework="pt") as file:
        header = file.metadata()
        torch.testing.assert_close(file.get_tensor("vectors"), vectors, rtol=0, atol=0)
    assert json.loads(header.pop("prompts")) == ["a liver", "the spleen"]
    assert header == {"format": FORMAT, "encoder": "clip", "kind": "projected", "dimension": "8"}

    alone = PromptBank(path)
    torch.testing.assert_close(alone(["the spleen", "a liver", "the spleen"]), vectors[[1, 0, 1]], rtol=0, atol=0)
    assert (alone.encoder_id, alone.kind, alone.dimension, len(alone)) == ("clip", "projected", 8, 2)


def test_found_prompts_never_reach_the_encoder(saved: Path) -> None:
    encoder = LetterEncoder()
    bank = PromptBank(saved, encoder)
    bank(["a liver", "The Spleen"])
    assert encoder.encoded == []
    bank(["a liver", "colon", "Colon", "colon"])
    bank("colon")
    assert encoder.encoded.count("colon") == 1
    assert "The Spleen" not in encoder.encoded


@pytest.mark.parametrize("spelling", ["the spleen", "THE SPLEEN", "  The\tspleen\n"])
def test_case_and_white_space_do_not_matter(saved: Path, spelling: str) -> None:
    bank = PromptBank(saved)
    assert spelling in bank
    torch.testing.assert_close(bank(spelling), bank("The Spleen"), rtol=0, atol=0)
    assert bank.prompts == ("a liver", "The Spleen")


@pytest.mark.parametrize(
    ("prompts", "error"), [("colon", MissingPromptError), ("thespleen", MissingPromptError), ([], ValueError)]
)
def test_a_missing_prompt_is_an_error(saved: Path, prompts: str | list[str], error: type[Exception]) -> None:
    bank = PromptBank(saved)
    with pytest.raises(error):
        bank(prompts)
    assert bank.holds(["a liver"])
    assert not bank.holds(["a liver", "colon"])


def test_a_long_training_does_not_fill_the_memory(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of the file stay in memory, and the latest of those encoded."""
    monkeypatch.setattr(custom.text.bank, "MAX_ENCODED", 3)
    encoder = LetterEncoder()
    bank = PromptBank(saved, encoder)
    held = set(bank.prompts)
    wanted = [f"sentence {chr(97 + number) * 2}" for number in range(5)]
    assert torch.equal(bank(wanted), encoder(wanted))
    assert set(bank.prompts) == held | set(wanted[2:])
    assert torch.equal(bank(wanted[:1]), encoder(wanted[:1]))


def test_a_bank_needs_a_file_or_an_encoder(path: Path) -> None:
    with pytest.raises(ValueError, match="a file, an encoder or both"):
        PromptBank()
    with pytest.raises(FileNotFoundError, match=r"no prompt bank at .*--text_bank"):
        PromptBank(path)
    memory = PromptBank(encoder=LetterEncoder())
    assert memory("a liver").shape == (1, 26)
    with pytest.raises(ValueError, match="in memory only"):
        memory.save()
    with pytest.raises(ValueError, match="holds no vectors yet"):
        PromptBank(path, LetterEncoder()).save()
    assert not path.exists()


def test_a_caller_cannot_change_what_the_bank_holds(saved: Path) -> None:
    bank = PromptBank(saved)
    bank("a liver").zero_()
    assert bank("a liver").any()


def test_a_loaded_bank_does_not_change_with_its_file(saved: Path) -> None:
    bank = PromptBank(saved)
    before = bank("The Spleen")
    size = saved.stat().st_size
    with saved.open("r+b") as file:  # in place, as a copy onto it does
        file.seek(size - 26 * 4)
        file.write(bytes(26 * 4))
    torch.testing.assert_close(bank("The Spleen"), before, rtol=0, atol=0)
    assert not PromptBank(saved)("The Spleen").any()


def test_saving_keeps_what_the_file_held(saved: Path) -> None:
    before = PromptBank(saved)(["a liver", "The Spleen"])
    bank = PromptBank(saved, LetterEncoder())
    bank("colon")
    bank.save()
    assert prompts_in(saved) == {"a liver", "The Spleen", "colon"}
    torch.testing.assert_close(PromptBank(saved)(["a liver", "The Spleen"]), before, rtol=0, atol=0)


def test_two_banks_on_one_file_merge(path: Path) -> None:
    first, second = PromptBank(path, LetterEncoder()), PromptBank(path, LetterEncoder())
    first(["a liver", "aorta"])
    second(["a liver", "colon"])
    first.save()
    second.save()
    merged = PromptBank(path)
    assert set(merged.prompts) == {"a liver", "aorta", "colon"}
    torch.testing.assert_close(merged(["aorta", "colon"]), LetterEncoder()(["aorta", "colon"]))


SAVE_MANY = """
import sys, torch
from custom.text.bank import PromptBank

class Encoder:
    encoder_id, kind, dimension = "e", "k", 4
    def __call__(self, prompts):
        return torch.ones(len(prompts), 4)

print("ready", flush=True)
sys.stdin.readline()
for at in range(15):
    bank = PromptBank(sys.argv[1], Encoder())
    bank(f"{sys.argv[2]} {at}")
    bank.save()
"""


def test_two_processes_that_save_at_once_lose_nothing(path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVE_MANY, str(path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    for worker in workers:
        assert worker.stdout and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate(timeout=60)
        assert worker.returncode == 0
    assert prompts_in(path) == {f"{name} {at}" for name in ("one", "two") for at in range(15)}


@pytest.mark.parametrize("other", [LetterEncoder(encoder_id="clip"), LetterEncoder(kind="projected")])
def test_a_bank_of_another_encoder_or_kind_is_refused(path: Path, other: LetterEncoder) -> None:
    early = PromptBank(path, other)
    early("aorta")
    bank = PromptBank(path, LetterEncoder())
    bank("a liver")
    bank.save()
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot be mixed: choose another --text_bank"):
        PromptBank(path, other)
    with pytest.raises(ValueError, match="cannot be mixed"):
        early.save()
    assert path.read_bytes() == before


def test_another_model_of_the_same_name_is_refused(path: Path, tiny_clip: TinyClip) -> None:
    late, agreeing = clip_bank(path, tiny_clip(1)), clip_bank(path, tiny_clip(0))
    late("aorta")
    agreeing("colon")
    first = clip_bank(path, tiny_clip(0))
    first("a liver")
    first.save()

    other = clip_bank(path, tiny_clip(1))
    other("a liver")
    with pytest.raises(ValueError, match=r"another model than the text encoder of this run.*'a liver'"):
        other("the spleen")
    with pytest.raises(ValueError, match="another model"):
        late.save()  # it was opened before there was a file
    agreeing.save()
    assert prompts_in(path) == {"a liver", "colon"}


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def damage_text(path: Path) -> None:
    path.write_text("a liver\n" * 40)


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_pickle(path: Path) -> None:
    torch.save({"vectors": torch.zeros(2, 26)}, path)


def rewrite(path: Path, *, tensor: str = "vectors", **changes: str | None) -> None:
    with safe_open(str(path), framework="pt") as file:
        header, vectors = file.metadata() | changes, file.get_tensor("vectors")
    save_file({tensor: vectors}, path, metadata={key: value for key, value in header.items() if value is not None})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_cut, "cut short"),
        (damage_text, "no prompt bank"),
        (damage_empty, "no prompt bank"),
        (damage_pickle, "no prompt bank"),
        (lambda path: rewrite(path, format="deep-film-weights-1"), "no prompt bank.*deep-film-weights-1"),
        (lambda path: rewrite(path, format=None), "no prompt bank.*None"),
        (lambda path: rewrite(path, tensor="rows"), "no prompt bank"),
        (lambda path: rewrite(path, kind=None), "damaged.*kind"),
        (lambda path: rewrite(path, prompts="[1"), "damaged"),
        (lambda path: rewrite(path, prompts='["a liver"]'), "1 prompts but vectors"),
        (lambda path: rewrite(path, dimension="25"), "2 prompts but vectors"),
    ],
)
@pytest.mark.parametrize("encoder", [None, LetterEncoder()])
def test_a_damaged_bank_is_refused(
    saved: Path, damage: Callable[[Path], None], message: str, encoder: LetterEncoder | None
) -> None:
    damage(saved)
    with pytest.raises(ValueError, match=message) as caught:
        PromptBank(saved, encoder)
    assert str(saved) in str(caught.value)


def test_an_interrupted_save_leaves_the_old_file_intact(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(tensors: object, filename: str, metadata: object) -> None:
        Path(filename).write_bytes(b"half")
        raise KeyboardInterrupt

    before = saved.read_bytes()
    bank = PromptBank(saved, LetterEncoder())
    bank("colon")
    with monkeypatch.context() as patched:
        patched.setattr(custom.utils.files, "save_file", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bank.save()
    assert saved.read_bytes() == before
    assert {file.name for file in saved.parent.iterdir()} <= {saved.name, f"{saved.name}.lock"}
    bank.save()
    assert "colon" in PromptBank(saved)


@pytest.mark.skipif(not PUBLIC_ROWS.is_file(), reason=f"the public CLIP rows are not at {PUBLIC_ROWS}")
def test_the_public_rows_are_found_as_they_are_spelt(path: Path) -> None:
    with np.load(PUBLIC_ROWS) as archive:
        rows, prompts = torch.from_numpy(archive["embeddings"]), archive["prompts"].tolist()
    header = {"format": FORMAT, "encoder": "clip", "kind": "projected", "dimension": "512"}
    path.parent.mkdir()
    save_file({"vectors": rows}, path, metadata=header | {"prompts": json.dumps(prompts)})
    bank = PromptBank(path)
    assert (len(bank), bank.dimension) == (len(prompts), 512)
    torch.testing.assert_close(bank(prompts), rows, rtol=0, atol=0)
    for name, row in {"arota": 7, "celiac truck": 24, "liver": 5}.items():
        torch.testing.assert_close(bank(f"a computerized tomography of a {name}")[0], rows[row], rtol=0, atol=0)
    with pytest.raises(MissingPromptError):
        bank("A computerized tomography of a Aorta")


def test_a_mistyped_path_creates_no_bank(path: Path) -> None:
    encoder = LetterEncoder()
    assert len(PromptBank(path, encoder)) == 0
    with pytest.raises(FileNotFoundError, match=r"no prompt bank at .*--text_bank"):
        PromptBank(path, encoder, create=False)
    assert len(PromptBank(None, encoder, create=False)) == 0
