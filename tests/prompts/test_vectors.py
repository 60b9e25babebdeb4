"""Vectors by class: the bank of the Universal Model, and the encoder that knows only classes."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from custom.anatomy.class_set import ClassSet
from custom.prompts.grammar import PromptError
from custom.prompts.sentences import write_sentence
from custom.prompts.vectors import ClassMeanEncoder, class_vectors
from custom.text.bank import MissingPromptError, PromptBank
from custom.text.no_text import NoText


class Lengths:
    """A toy text encoder: (length, number of letters "a") of a sentence."""

    encoder_id, kind, dimension = "lengths", "mean", 2

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(len(prompt)), float(prompt.count("a"))] for prompt in prompts])


@pytest.fixture
def bank_file(tmp_path: Path, class_set: ClassSet) -> Path:
    bank = PromptBank(tmp_path / "bank.safetensors", Lengths())
    class_vectors(bank, class_set)
    bank.save()
    return tmp_path / "bank.safetensors"


def test_class_vectors_are_those_of_the_canonical_sentences(class_set: ClassSet) -> None:
    sentences = [write_sentence(class_set, [index]) for index in range(1, len(class_set) + 1)]
    assert torch.equal(class_vectors(PromptBank(encoder=Lengths()), class_set), Lengths()(sentences))


def test_class_vectors_take_the_public_banks_sentences_and_spellings(class_set: ClassSet, tmp_path: Path) -> None:
    names = ["Arota" if item.name == "aorta" else item.name.title() for item in class_set]
    bank = PromptBank(tmp_path / "public.safetensors", Lengths())
    bank([class_set.class_sentence.format(name=name) for name in names])
    bank.save()
    rows = class_vectors(PromptBank(tmp_path / "public.safetensors"), class_set)
    assert torch.equal(rows, Lengths()([class_set.class_sentence.format(name=name) for name in names]))


def test_a_bank_that_lacks_a_class_is_refused(class_set: ClassSet, tmp_path: Path) -> None:
    bank = PromptBank(tmp_path / "bank.safetensors", Lengths())
    bank("a computerized tomography of spleen")
    bank.save()
    with pytest.raises(MissingPromptError, match="right kidney"):
        class_vectors(PromptBank(tmp_path / "bank.safetensors"), class_set)


@pytest.mark.parametrize("vectors", ["onehot", "random", "bank"])
def test_a_sentence_is_the_mean_of_its_classes(vectors: str, class_set: ClassSet, bank_file: Path) -> None:
    source = str(bank_file) if vectors == "bank" else vectors
    encoder = ClassMeanEncoder(class_set, source)
    spleen, liver, both, same = encoder(["a CT of spleen", "show me the liver", "liver and spleen", "spleen"])
    torch.testing.assert_close(both, (spleen + liver) / 2)
    assert torch.equal(spleen, same)
    assert not torch.equal(spleen, liver)
    for single in (spleen, liver):
        torch.testing.assert_close(single.square().mean(), torch.tensor(1.0))
    assert encoder.dimension == len(spleen) == {"onehot": 32, "random": 384, "bank": 2}[vectors]
    assert encoder.encoder_id == {"onehot": "onehot", "random": "random", "bank": "lengths"}[vectors]
    assert torch.equal(ClassMeanEncoder(class_set, source).rows, encoder.rows)
    assert not encoder([class_set.default_prompt]).any()


def test_one_hot_vectors_are_one_at_their_class(class_set: ClassSet) -> None:
    [vector] = ClassMeanEncoder(class_set, "onehot")(["liver"])
    assert vector.nonzero().flatten().tolist() == [class_set.index("liver") - 1]


def test_a_sentence_without_meaning_is_refused(class_set: ClassSet) -> None:
    with pytest.raises(PromptError):
        ClassMeanEncoder(class_set, "onehot")(["the weather"])
    with pytest.raises(ValueError, match="'onehot', 'random' or the file of a prompt bank, not 'one-hot'"):
        ClassMeanEncoder(class_set, "one-hot")


def test_no_text_is_empty_and_describes_what_is_inside() -> None:
    assert NoText()(["liver", "spleen"]).shape == (2, 0)
    assert NoText()("liver").shape == (1, 0)
    inside = NoText("clip", "projected", 512)
    assert (inside.encoder_id, inside.kind, inside.dimension) == ("clip", "projected", 512)
