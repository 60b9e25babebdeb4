"""Prompt banks of other codes: every form of file, and pickles that would run code."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from custom.anatomy.class_set import ClassSet
from custom.prompts.vectors import class_vectors
from custom.text.bank import MissingPromptError, PromptBank
from custom.tools.conversion.prompt_banks import GivenVectors, read_old_bank
from tests.helpers.warm_python import run_python

Save = Callable[[Any, Path], object]
LIVER, SPLEEN = "a CT of the liver", "a CT of the spleen"
VECTORS = {LIVER: torch.arange(4) / 3, SPLEEN: torch.arange(4) / 7}


def plain_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def protocol_2(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def old_torch(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


SAVES = [plain_pickle, protocol_2, torch.save, old_torch]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "old.pkl"


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_every_way_of_saving_gives_the_same_vectors(
    path: Path, class_set: ClassSet, monkeypatch: pytest.MonkeyPatch, save: Save, on_gpu: bool
) -> None:
    shared = torch.stack([VECTORS[LIVER], VECTORS[SPLEEN]])
    content = {LIVER: shared[:1].requires_grad_(), SPLEEN: shared[1].half()}  # rows of one storage, (1, E) and (E,)
    if on_gpu:
        monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    save(content, path)
    assert (b"cuda:0" in path.read_bytes()) == on_gpu
    read = read_old_bank(path, class_set)
    assert list(read) == [LIVER, SPLEEN]
    assert torch.equal(read[LIVER], VECTORS[LIVER])
    assert torch.equal(read[SPLEEN], VECTORS[SPLEEN].half().float())
    assert all(not v.requires_grad and v.dtype == torch.float32 and v.device.type == "cpu" for v in read.values())


@pytest.mark.parametrize("save", SAVES)
def test_rows_of_one_tensor_are_the_classes(path: Path, class_set: ClassSet, save: Save) -> None:
    rows = torch.randn(len(class_set), 4)
    save(rows, path)
    vectors = read_old_bank(path, class_set)
    assert list(vectors)[5] == "A computerized tomography of a liver"
    bank = PromptBank(encoder=GivenVectors(vectors, encoder_id="clip", kind="projected"))
    bank(list(vectors))
    assert torch.equal(class_vectors(bank, class_set), rows)
    save(rows[:31], path)
    with pytest.raises(ValueError, match=r"a row for each of the 32 classes of 'ct'.*\(31, 4\)"):
        read_old_bank(path, class_set)


def test_an_npz_is_read_without_pickle(tmp_path: Path, class_set: ClassSet) -> None:
    path = tmp_path / "bank.npz"
    np.savez(path, prompts=np.array([LIVER, SPLEEN]), embeddings=np.eye(2, dtype=np.float16))
    assert torch.equal(read_old_bank(path, class_set)[SPLEEN], torch.tensor([0.0, 1.0]))
    for arrays, message in (
        ({"prompts": np.array([LIVER, None]), "embeddings": np.eye(2)}, "allow_pickle=False"),
        ({"prompts": np.array([LIVER]), "embeddings": np.eye(2)}, r"prompts \(P,\) of text"),
        ({"prompts": np.array([LIVER, LIVER]), "embeddings": np.eye(2)}, "each prompt once"),
        ({"embeddings": np.eye(2)}, "prompts"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=message):
            read_old_bank(path, class_set)
    path.write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=r"must be an \.npz"):
        read_old_bank(path, class_set)


@pytest.mark.parametrize("save", [plain_pickle, torch.save])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({LIVER: torch.tensor([1.0, float("nan")])}, "NaN or infinity in the vector of 'a CT of the liver'"),
        ({LIVER: torch.ones(2, 4)}, r"must be \(E,\) or \(1, E\); .* is \(2, 4\)"),
        ({LIVER: torch.ones(0)}, r"is \(0,\)"),
        ({LIVER: torch.ones(4), SPLEEN: torch.ones(5)}, r"one length, not \[4, 5\]"),
        ({LIVER: torch.ones(4), LIVER.upper(): torch.zeros(4)}, "two vectors of 'a CT of the liver' and 'A CT OF"),
        ({LIVER: torch.ones(4, dtype=torch.int64)}, r"floating-point tensors; .* is torch\.int64"),
        ({LIVER: [1.0, 2.0]}, "is list"),
        ({7: torch.ones(4)}, "must be prompts, not 7"),
        ({}, "must hold prompts and their vectors, not dict"),
        ("text", "not str"),
    ],
)
def test_invalid_banks_are_refused(path: Path, class_set: ClassSet, save: Save, content: Any, message: str) -> None:
    save(content, path)
    with pytest.raises(ValueError, match=message):
        read_old_bank(path, class_set)


def test_one_prompt_spelled_twice_with_one_vector_is_one(path: Path, class_set: ClassSet) -> None:
    plain_pickle({LIVER: torch.ones(4), LIVER.upper(): torch.ones(4)}, path)
    assert list(read_old_bank(path, class_set)) == [LIVER]


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


class Nested(Malicious):
    """The same, inside the bytes of a tensor's storage."""

    def __reduce__(self) -> tuple[Any, ...]:
        stream = io.BytesIO()
        torch.save(Malicious(self.witness), stream, _use_new_zipfile_serialization=False)
        return torch.storage._load_from_bytes, (stream.getvalue(),)


@pytest.mark.parametrize("save", [plain_pickle, protocol_2, old_torch, torch.save])
@pytest.mark.parametrize("evil", [Malicious, Nested])
@pytest.mark.parametrize("beside", [{}, VECTORS])
def test_a_malicious_pickle_runs_nothing(
    path: Path, class_set: ClassSet, save: Save, evil: type[Malicious], beside: dict[str, torch.Tensor]
) -> None:
    witness = path.with_name("witness")
    save({**beside, "a CT": evil(witness)}, path)
    with pytest.raises(
        ValueError, match="holds more than prompts and tensors, or is damaged, and nothing in it was run"
    ):
        read_old_bank(path, class_set)
    assert not witness.exists()
    if save in (plain_pickle, protocol_2):
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert witness.exists()  # unpickling does run it


def test_a_refused_name_is_reported(path: Path, class_set: ClassSet) -> None:
    plain_pickle({LIVER: np.ones(4)}, path)
    with pytest.raises(ValueError, match=r"it names numpy\S+, which is no tensor, dict or text; it was refused"):
        read_old_bank(path, class_set)
    path.write_bytes(b"cos\nsystem\n(S'touch witness'\ntR.")
    with pytest.raises(ValueError, match=r"it names os\.system"):
        read_old_bank(path, class_set)


@pytest.mark.parametrize("save", SAVES)
def test_truncated_and_invalid_files_are_refused(path: Path, class_set: ClassSet, save: Save) -> None:
    save(VECTORS, path)
    saved = path.read_bytes()
    for content in (saved[: len(saved) // 2], b"", b"<html>", bytes(range(256)) * 9):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            read_old_bank(path, class_set)
    with pytest.raises(FileNotFoundError, match="--source"):
        read_old_bank(path.with_name("absent.pkl"), class_set)


def write(path: Path, vectors: dict[str, torch.Tensor], kind: str = "projected") -> None:
    bank = PromptBank(encoder=GivenVectors(vectors, encoder_id="clip", kind=kind))
    bank(list(vectors))
    bank.path = path
    bank.save()


def test_banks_merge_only_if_one_model_made_both(tmp_path: Path) -> None:
    file = tmp_path / "bank.safetensors"
    write(file, VECTORS)
    write(file, {LIVER: VECTORS[LIVER], "a CT of the aorta": torch.ones(4)})
    bank = PromptBank(file)
    assert len(bank) == 3 and (bank.encoder_id, bank.kind, bank.dimension) == ("clip", "projected", 4)
    assert torch.equal(bank([SPLEEN])[0], VECTORS[SPLEEN])
    with pytest.raises(ValueError, match="kind 'projected'; this run uses 'clip', kind 'pooled'"):
        write(file, VECTORS, kind="pooled")
    with pytest.raises(ValueError, match="made by another model"):
        write(file, {LIVER: -VECTORS[LIVER]})
    with pytest.raises(MissingPromptError, match=r"none in common with it.*Write to a new file"):
        write(file, {"a CT of the colon": torch.ones(4)})
    assert len(PromptBank(file)) == 3


def test_the_script_writes_a_bank(path: Path, class_set: ClassSet) -> None:
    torch.save(torch.randn(len(class_set), 512).half(), path)
    output = path.with_name("bank.safetensors")
    arguments = ["--source", path, "--output", output, "--text_encoder", "clip", "--text_kind", "projected"]
    done = run_python("scripts/convert_weights.py", "bank", *arguments)
    assert not done.returncode, done.stderr
    assert "32 prompts of 512 numbers, clip projected" in done.stdout
    assert class_vectors(PromptBank(output), class_set).shape == (32, 512)
