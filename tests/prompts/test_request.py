"""Prompts are parsed once: sentences, channels and masks to write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from custom.anatomy.class_set import ClassSet
from custom.prompts.grammar import PromptError, Structure, UnknownOrganError
from custom.prompts.request import PromptParser, split_evenly
from custom.prompts.sentences import write_sentence
from custom.text.bank import MissingPromptError, PromptBank
from custom.text.encoders import PromptTooLongError
from custom.text.no_text import NoText
from tests.helpers.prompts import LetterCounts, classes

LIVER, LIVER_TUMOR = 6, 27


class ShortSighted:
    """A text encoder that reads few words."""

    encoder_id = "words"
    kind = "count"
    dimension = 1

    def __init__(self, context: int) -> None:
        self.context = context

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        counts = [len(prompt.split()) for prompt in prompts]
        if max(counts) > self.context:
            raise PromptTooLongError(f"A prompt must fit in the encoder's context of {self.context} tokens.")
        return torch.tensor(counts, dtype=torch.float32)[:, None]


def test_a_prompt_that_is_not_read_chooses_what_is_written(class_set: ClassSet) -> None:
    request = PromptParser(class_set, NoText())("liver and both kidneys")
    assert [classes(named) for named in request.named] == [[2, 3, 6]]
    assert (request.sentences, request.prompt_text) == (("",), "unread")


@pytest.mark.parametrize(
    ("prompt", "group_size", "expected"),
    [
        ("liver", 15, [[6]]),
        ("show me the liver tumor, both kidneys and liver", 15, [[2, 3, 6, 27]]),
        ("show me the liver tumor, both kidneys and liver", 1, [[2], [3], [6], [27]]),
        (("liver", "spleen"), 15, [[1, 6]]),
        ("liver tumor, left kidney, right kidney, liver, spleen", 2, [[1, 2], [3, 6], [27]]),
    ],
)
def test_a_prompt_becomes_canonical_sentences(
    class_set: ClassSet, prompt: Any, group_size: int, expected: list[list[int]]
) -> None:
    bank = PromptBank(encoder=LetterCounts())
    request = PromptParser(class_set, bank, group_size=group_size)(prompt)
    assert [classes(named) for named in request.named] == expected
    assert list(request.sentences) == [write_sentence(class_set, question) for question in expected]
    assert request.text == (prompt if isinstance(prompt, str) else "liver, spleen")


def test_without_an_encoder_each_class_has_a_sentence_of_its_own(class_set: ClassSet, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    made = PromptBank(path, LetterCounts())
    made([write_sentence(class_set, [item.index]) for item in class_set])
    made.save()
    bank = PromptBank(path)
    request = PromptParser(class_set, bank, group_size=2)("liver tumor and spleen")
    sentences = [write_sentence(class_set, [1]), write_sentence(class_set, [27])]
    assert [classes(named) for named in request.named] == [[1], [27]]
    assert list(request.sentences) == sentences
    torch.testing.assert_close(bank(request.sentences), LetterCounts()(sentences))


def test_unknown_structures_are_refused(class_set: ClassSet) -> None:
    with pytest.raises(UnknownOrganError, match="unicorn"):
        PromptParser(class_set, PromptBank(encoder=LetterCounts()))("liver and unicorn")


def test_a_class_that_was_never_trained_is_refused(class_set: ClassSet) -> None:
    parse = PromptParser(class_set, PromptBank(encoder=LetterCounts()), trained_classes=["liver", "spleen"])
    assert parse("spleen").sentences == ("a computerized tomography of spleen",)
    with pytest.raises(ValueError, match=r"not trained on pancreas\. They know: liver, spleen"):
        parse("liver and pancreas")


def test_a_public_bank_needs_no_encoder(class_set: ClassSet, tmp_path: Path) -> None:
    """Public banks hold "A computerized tomography of a Liver" and misspell the aorta."""
    made = PromptBank(tmp_path / "bank.safetensors", LetterCounts())
    rows = ["A computerized tomography of a Liver", "A computerized tomography of a Arota"]
    made(rows)
    made.save()
    bank = PromptBank(tmp_path / "bank.safetensors")
    request = PromptParser(class_set, bank)("aorta and liver")
    assert [sentence.casefold() for sentence in list(request.sentences)] == [row.casefold() for row in rows]
    torch.testing.assert_close(bank(request.sentences), made(rows))
    with pytest.raises(LookupError, match="spleen"):
        bank(PromptParser(class_set, bank)("spleen").sentences)


@pytest.mark.parametrize(("context", "sizes"), [(99, [8, 8, 8, 8]), (9, None)])
def test_sentences_fit_both_limits(class_set: ClassSet, context: int, sizes: list[int] | None) -> None:
    bank = PromptBank(encoder=ShortSighted(context))
    request = PromptParser(class_set, bank, group_size=8)("everything")
    assert request.named.sum(0).tolist() == [1] * len(class_set)
    assert sizes is None or request.named.sum(1).tolist() == sizes
    assert all(len(sentence.split()) <= context for sentence in list(request.sentences))
    for sentence, named in zip(list(request.sentences), request.named, strict=True):
        assert sentence == write_sentence(class_set, classes(named))


def test_a_name_that_is_too_long_alone_is_an_error(class_set: ClassSet) -> None:
    with pytest.raises(PromptTooLongError, match="context of 4 tokens"):
        PromptParser(class_set, PromptBank(encoder=ShortSighted(4)))("spleen and left kidney")


def test_raw_words_go_to_the_network_once(class_set: ClassSet) -> None:
    parse = PromptParser(class_set, PromptBank(encoder=LetterCounts()), prompt_text="raw", max_classes_per_prompt=4)
    request = parse("the livers,\n please, and a tumour in the left kideny")
    assert list(request.sentences) == ["the livers, please, and a tumour in the left kideny"]
    assert [classes(named) for named in request.named] == [[3, 6, 26]]
    assert request.structures == (Structure(6), Structure(26, within=3))
    assert request.summary() == {
        "text": "the livers,\n please, and a tumour in the left kideny",
        "understood": ["liver", "kidney tumor in left kidney"],
        "corrections": [{"typed": "kideny", "read_as": "kidney"}],
        "left_out": [],
        "sentences": ["the livers, please, and a tumour in the left kideny"],
        "prompt_text": "raw",
    }
    with pytest.raises(PromptError, match=r"at most 4 classes, not 32 .*--prompt_text canonical"):
        parse("everything")


def test_a_group_has_no_effect_where_the_prompt_is_not_read(class_set: ClassSet) -> None:
    with pytest.raises(ValueError, match="group_size has no effect"):
        PromptParser(class_set, NoText(), group_size=2)


def test_a_structure_does_not_depend_on_what_is_requested_beside_it(class_set: ClassSet) -> None:
    parse = PromptParser(class_set, PromptBank(encoder=LetterCounts()))
    alone, together = parse("liver"), parse("both kidneys, liver and spleen")
    assert set(alone.sentences) < set(together.sentences)
    assert together.named.sum(1).tolist() == [1] * 4


@pytest.mark.parametrize("group_size", [0, 5, 1.5, "two"])
def test_a_group_is_no_larger_than_the_weights_read(class_set: ClassSet, group_size: Any) -> None:
    with pytest.raises(ValueError, match=f"group_size must be a whole number from 1 to 4, .*not {group_size!r}"):
        PromptParser(class_set, NoText(), max_classes_per_prompt=4, group_size=group_size)


@pytest.mark.parametrize("max_classes_per_prompt", [0, -1, 1.5, "three"])
def test_a_sentence_names_a_whole_number_of_classes(class_set: ClassSet, max_classes_per_prompt: Any) -> None:
    message = f"max_classes_per_prompt must be a whole number from 1, not {max_classes_per_prompt!r}"
    with pytest.raises(ValueError, match=message):
        PromptParser(class_set, NoText(), max_classes_per_prompt=max_classes_per_prompt)


def test_raw_words_need_an_encoder_that_reads_them(class_set: ClassSet, tmp_path: Path) -> None:
    short = PromptParser(class_set, PromptBank(encoder=ShortSighted(3)), prompt_text="raw")
    assert short("show the liver").sentences == ("show the liver",)
    with pytest.raises(PromptTooLongError, match=r"3 tokens.*never cut.*--prompt_text canonical"):
        short("show me the liver")
    made = PromptBank(tmp_path / "bank.safetensors", LetterCounts())
    made(["my liver"])
    made.save()
    stored = PromptParser(class_set, PromptBank(tmp_path / "bank.safetensors"), prompt_text="raw")
    assert stored("My  liver").sentences == ("My liver",)
    with pytest.raises(MissingPromptError, match=r"'the liver'.*--text_bank"):
        stored("the liver")
    with pytest.raises(ValueError, match=r"prompt_text must be one of \['canonical', 'raw'\], not 'cooked'"):
        PromptParser(class_set, PromptBank(encoder=LetterCounts()), prompt_text="cooked")


def test_helpers_are_decoded_and_open_groups_shrink(class_set: ClassSet) -> None:
    labelled = ["liver", "spleen", "liver tumor"]
    parse = PromptParser(class_set, PromptBank(encoder=LetterCounts()), trained_classes=labelled)
    request = parse("liver without tumour")
    assert [classes(named) for named in request.named] == [[LIVER], [LIVER_TUMOR]]
    assert request.structures == (Structure(LIVER, without=(LIVER_TUMOR,)),)
    request = parse("all organs")
    assert request.summary()["understood"] == ["spleen", "liver"]
    assert len(request.summary()["left_out"]) == 23
    assert any("all organs: these weights know 2 of 25" in line for line in request.explain())
    with pytest.raises(ValueError, match="not trained on pancreas"):
        parse("all organs and the pancreas")
    with pytest.raises(ValueError, match="not trained on right kidney, left kidney"):
        parse("kidneys")


@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(1, 16, [1]), (16, 16, [16]), (17, 16, [9, 8]), (32, 16, [16, 16]), (5, 1, [1] * 5)]
)
def test_split_evenly(count: int, most: int, sizes: list[int]) -> None:
    parts = split_evenly(range(count), most)
    assert [len(part) for part in parts] == sizes
    assert [index for part in parts for index in part] == list(range(count))
