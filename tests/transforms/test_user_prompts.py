"""Prompts of users: sentences, channels and masks to write."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from custom.anatomy.class_set import ClassSet
from custom.prompts.grammar import PromptError, UnknownOrganError
from custom.prompts.sentences import write_sentence
from custom.text.bank import MissingPromptError, PromptBank
from custom.text.encoders import PromptTooLongError
from custom.text.no_text import NoText
from custom.transforms.training_prompts import EncodePromptd
from custom.transforms.user_prompts import ResolvePromptd
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


def test_a_prompt_that_is_not_read_chooses_what_is_written(
    class_set: ClassSet, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        result = ResolvePromptd(class_set, NoText(), max_classes_per_prompt=1)({"prompt": "liver and both kidneys"})
    assert [classes(named) for named in result["named"]] == [[2, 3, 6]]
    assert result["sentences"].splitlines() == []
    assert json.loads(result["request"])["prompt_text"] == "unread"
    assert EncodePromptd("prompt", NoText())(result)["text"].shape == (1, 0)
    assert "answers every class whatever is asked" in caplog.text


@pytest.mark.parametrize(
    ("prompt", "max_classes_per_prompt", "expected"),
    [
        ("liver", 16, [[6]]),
        ("show me the liver tumor, both kidneys and liver", 16, [[2, 3, 6, 27]]),
        (("liver", "spleen"), 16, [[1, 6]]),
        ("liver tumor, left kidney, right kidney, liver, spleen", 2, [[1, 2], [3, 6], [27]]),
    ],
)
def test_a_prompt_becomes_canonical_sentences(
    class_set: ClassSet, prompt: Any, max_classes_per_prompt: int, expected: list[list[int]]
) -> None:
    bank = PromptBank(encoder=LetterCounts())
    result = ResolvePromptd(class_set, bank, max_classes_per_prompt=max_classes_per_prompt)(
        {"prompt": prompt, "image": "ct"}
    )
    assert [classes(named) for named in result["named"]] == expected
    assert result["prompt"] == [write_sentence(class_set, question) for question in expected]
    assert result["asked"] == (prompt if isinstance(prompt, str) else "liver, spleen")
    assert result["image"] == "ct"


def test_without_an_encoder_each_class_is_asked_for_alone(class_set: ClassSet, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    made = PromptBank(path, LetterCounts())
    made([write_sentence(class_set, [item.index]) for item in class_set])
    made.save()
    bank = PromptBank(path)
    result = EncodePromptd("prompt", bank)(ResolvePromptd(class_set, bank)({"prompt": "liver tumor and spleen"}))
    sentences = [write_sentence(class_set, [1]), write_sentence(class_set, [27])]
    assert [classes(named) for named in result["named"]] == [[1], [27]]
    assert result["prompt"] == sentences
    torch.testing.assert_close(result["text"], LetterCounts()(sentences))


def test_unknown_structures_are_refused(class_set: ClassSet) -> None:
    with pytest.raises(UnknownOrganError, match="unicorn"):
        ResolvePromptd(class_set, PromptBank(encoder=LetterCounts()))({"prompt": "liver and unicorn"})


def test_a_class_that_was_never_trained_is_refused(class_set: ClassSet) -> None:
    resolve = ResolvePromptd(class_set, PromptBank(encoder=LetterCounts()), trained_classes=["liver", "spleen"])
    assert resolve({"prompt": "spleen"})["prompt"] == ["a computerized tomography of spleen"]
    with pytest.raises(ValueError, match="not trained on pancreas; they know liver, spleen"):
        resolve({"prompt": "liver and pancreas"})


def test_a_public_bank_answers_without_an_encoder(class_set: ClassSet, tmp_path: Path) -> None:
    """Public banks hold "A computerized tomography of a Liver" and misspell the aorta."""
    made = PromptBank(tmp_path / "bank.safetensors", LetterCounts())
    rows = ["A computerized tomography of a Liver", "A computerized tomography of a Arota"]
    made(rows)
    made.save()
    bank = PromptBank(tmp_path / "bank.safetensors")
    result = ResolvePromptd(class_set, bank)({"prompt": "aorta and liver"})
    assert [sentence.casefold() for sentence in result["prompt"]] == [row.casefold() for row in rows]
    assert result["sentences"] == "\n".join(result["prompt"])
    torch.testing.assert_close(EncodePromptd("prompt", bank)(result)["text"], made(rows))
    with pytest.raises(LookupError, match="spleen"):
        EncodePromptd("prompt", bank)(ResolvePromptd(class_set, bank)({"prompt": "spleen"}))


@pytest.mark.parametrize(("context", "sizes"), [(99, [8, 8, 8, 8]), (9, None)])
def test_sentences_fit_both_limits(class_set: ClassSet, context: int, sizes: list[int] | None) -> None:
    bank = PromptBank(encoder=ShortSighted(context))
    result = ResolvePromptd(class_set, bank, max_classes_per_prompt=8)({"prompt": "everything"})
    assert result["named"].sum(0).tolist() == [1] * len(class_set)
    assert sizes is None or result["named"].sum(1).tolist() == sizes
    assert all(len(sentence.split()) <= context for sentence in result["prompt"])
    for sentence, named in zip(result["prompt"], result["named"], strict=True):
        assert sentence == write_sentence(class_set, classes(named))


def test_a_name_that_is_too_long_alone_is_an_error(class_set: ClassSet) -> None:
    with pytest.raises(PromptTooLongError, match="context of 4 tokens"):
        ResolvePromptd(class_set, PromptBank(encoder=ShortSighted(4)))({"prompt": "spleen and left kidney"})


def test_raw_words_go_to_the_network_once(class_set: ClassSet) -> None:
    resolve = ResolvePromptd(class_set, PromptBank(encoder=LetterCounts()), prompt_text="raw", max_classes_per_prompt=4)
    result = resolve({"prompt": "the livers,\n please, and a tumour in the left kideny"})
    assert result["prompt"] == ["the livers, please, and a tumour in the left kideny"]
    assert [classes(named) for named in result["named"]] == [[3, 6, 26]]
    request = json.loads(result["request"])
    assert request["understood"] == ["liver", "kidney tumor in left kidney"]
    assert request["structures"] == [[6, None, []], [26, 3, []]]
    assert request["corrections"] == [{"typed": "kideny", "read_as": "kidney"}]
    assert request["prompt_text"] == "raw"
    with pytest.raises(PromptError, match=r"at most 4 classes, not 32 .*--prompt_text canonical"):
        resolve({"prompt": "everything"})


@pytest.mark.parametrize("max_classes_per_prompt", [0, -1, 1.5, "three"])
def test_a_sentence_names_a_whole_number_of_classes(class_set: ClassSet, max_classes_per_prompt: Any) -> None:
    message = f"max_classes of a sentence must be a whole number from 1, not {max_classes_per_prompt!r}"
    with pytest.raises(ValueError, match=message):
        ResolvePromptd(class_set, NoText(), max_classes_per_prompt=max_classes_per_prompt)


def test_raw_words_need_an_encoder_that_reads_them(class_set: ClassSet, tmp_path: Path) -> None:
    short = ResolvePromptd(class_set, PromptBank(encoder=ShortSighted(3)), prompt_text="raw")
    assert short({"prompt": "show the liver"})["prompt"] == ["show the liver"]
    with pytest.raises(PromptTooLongError, match=r"3 tokens.*never cut.*--prompt_text canonical"):
        short({"prompt": "show me the liver"})
    made = PromptBank(tmp_path / "bank.safetensors", LetterCounts())
    made(["my liver"])
    made.save()
    stored = ResolvePromptd(class_set, PromptBank(tmp_path / "bank.safetensors"), prompt_text="raw")
    assert stored({"prompt": "My  liver"})["prompt"] == ["My liver"]
    with pytest.raises(MissingPromptError, match=r"'the liver'.*--text_bank"):
        stored({"prompt": "the liver"})
    with pytest.raises(ValueError, match=r"prompt_text must be one of \['canonical', 'raw'\], not 'cooked'"):
        ResolvePromptd(class_set, PromptBank(encoder=LetterCounts()), prompt_text="cooked")


def test_helpers_are_decoded_and_open_groups_shrink(class_set: ClassSet, caplog: pytest.LogCaptureFixture) -> None:
    labelled = ["liver", "spleen", "liver tumor"]
    resolve = ResolvePromptd(class_set, PromptBank(encoder=LetterCounts()), trained_classes=labelled)
    result = resolve({"prompt": "liver without tumour"})
    assert [classes(named) for named in result["named"]] == [[LIVER, LIVER_TUMOR]]
    assert json.loads(result["request"])["structures"] == [[LIVER, None, [LIVER_TUMOR]]]
    with caplog.at_level("INFO"):
        request = json.loads(resolve({"prompt": "all organs"})["request"])
    assert request["understood"] == ["spleen", "liver"]
    assert len(request["left_out"]) == 23
    assert "all organs: these weights know 2 of 25" in caplog.text
    with pytest.raises(ValueError, match="not trained on pancreas"):
        resolve({"prompt": "all organs and the pancreas"})
    with pytest.raises(ValueError, match="not trained on right kidney, left kidney"):
        resolve({"prompt": "kidneys"})
