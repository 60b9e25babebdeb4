"""Prompts of training and validation: their classes, their words, and the target."""

from collections.abc import Hashable, Sequence
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from custom.anatomy.class_set import ClassSet
from custom.anatomy.loading import load_class_set
from custom.datasets.labels import UNKNOWN, UNNAMED
from custom.prompts.resolve import resolve_prompt
from custom.prompts.sentences import write_sentence
from custom.text.bank import PromptBank
from custom.text.no_text import NoText
from custom.transforms.training_prompts import EncodePromptd, SamplePromptd, ValidationPromptsd
from tests.helpers.prompts import LetterCounts, classes


def target_of(class_set: ClassSet, labelled: Sequence[int], present: Sequence[int] = ()) -> torch.Tensor:
    """Target (K, 2, 2, 2): ``present`` classes 1 in a corner, other ``labelled`` ones 0, the rest UNKNOWN."""
    target = torch.full((len(class_set), 2, 2, 2), UNKNOWN, dtype=torch.int8)
    target[[index - 1 for index in labelled]] = 0
    target[[index - 1 for index in present], 0, 0, 0] = 1
    return target


@pytest.mark.parametrize("max_classes_per_prompt", [3, 16])
def test_sampled_sentences_name_exactly_the_classes_of_the_target(
    class_set: ClassSet, max_classes_per_prompt: int
) -> None:
    labelled = [1, 2, 3, 4, 6, 7, 8, 11, 12, 13, 14, 16, 17, 18, 26, 27, 32]
    target = target_of(class_set, labelled, present=[1, 6, 27])
    before = target.clone()
    sample = SamplePromptd("label", class_set, max_classes_per_prompt=max_classes_per_prompt).set_random_state(0)
    sizes, sentences = set(), set()
    for _ in range(200):
        result = sample({"label": target})
        requested = classes(result["named"])
        assert requested
        assert set(requested) <= set(labelled)
        assert sorted(resolve_prompt(result["prompt"], class_set).indices) == requested
        for item in class_set:
            channel = result["label"][item.index - 1]
            truth = before[item.index - 1]  # UNKNOWN throughout where the class is not labelled
            unnamed = item.index in labelled and item.index not in requested
            assert torch.equal(channel, torch.where(truth == 1, UNNAMED, truth) if unnamed else truth)
        sizes.add(len(requested))
        sentences.add(result["prompt"])
    assert torch.equal(target, before)
    assert min(sizes) == 1
    assert max(sizes) <= max_classes_per_prompt
    assert len(sizes) >= min(max_classes_per_prompt, 8)
    assert len(sentences) > 100


def test_sampling_follows_its_seed(class_set: ClassSet) -> None:
    data: dict[Hashable, Any] = {"label": target_of(class_set, range(1, 15), present=[1, 2, 3])}
    sample = SamplePromptd("label", class_set)

    def draw(seed: int) -> list[str]:
        sample.set_random_state(seed)
        return [str(sample(data)["prompt"]) for _ in range(10)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_classes_in_the_crop_are_requested_more_often(class_set: ClassSet) -> None:
    data: dict[Hashable, Any] = {"label": target_of(class_set, range(1, 15), present=[6])}
    options: dict[str, Any] = {"max_classes_per_prompt": 1, "dataset_probability": 0.0}

    def share(weight: float) -> float:
        sample = SamplePromptd("label", class_set, present_weight=weight, **options).set_random_state(0)
        return sum(classes(sample(data)["named"]) == [6] for _ in range(200)) / 200

    assert share(1) < 0.2  # expected: 1 / 14
    assert share(100) > 0.8  # 100 / 113


def test_paired_organs_are_requested_on_both_sides(class_set: ClassSet) -> None:
    data: dict[Hashable, Any] = {"label": target_of(class_set, [2, 3, 6, 16])}
    options: dict[str, Any] = {"dataset_probability": 0.0}

    def draws(share: float, most: int) -> list[list[int]]:
        sample = SamplePromptd("label", class_set, both_probability=share, max_classes_per_prompt=most, **options)
        sample.set_random_state(0)
        return [classes(sample(data)["named"]) for _ in range(200)]

    always = draws(1, 4)
    assert all((2 in drawn) == (3 in drawn) for drawn in always)
    assert [2, 3] in always and [16] in always, "the left lung is not labelled"
    assert [2] in draws(0, 4)
    assert {len(drawn) for drawn in draws(1, 1)} == {1}, "never more than a sentence may name"


def test_the_data_set_sentence_in_as_many_parts_as_needed(class_set: ClassSet) -> None:
    sample = SamplePromptd("label", class_set, dataset_probability=1.0, max_classes_per_prompt=5).set_random_state(0)
    labelled = list(range(1, 13))
    parts = {tuple(classes(sample({"label": target_of(class_set, labelled)})["named"])) for _ in range(50)}
    assert parts == {(1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)}


def test_dataset_policy_leaves_the_target_alone(class_set: ClassSet) -> None:
    target = target_of(class_set, [6, 27], present=[27])
    result = SamplePromptd("label", class_set, policy="dataset")({"label": target.clone()})
    assert torch.equal(result["label"], target)
    assert result["prompt"] == write_sentence(class_set, [6, 27])
    assert classes(result["named"]) == [6, 27]


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "some"},
        {"max_classes_per_prompt": 0},
        {"present_weight": 0.5},
        {"dataset_probability": 1.5},
        {"dataset_probability": -0.1},
        {"both_probability": 1.5},
    ],
)
def test_sampling_refuses_wrong_options(class_set: ClassSet, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(*options.values())):
        SamplePromptd("label", class_set, **options)


def test_validation_requests_each_class_and_all_together(class_set: ClassSet) -> None:
    data: dict[Hashable, Any] = {"label": target_of(class_set, [1, 6, 27])}
    result = ValidationPromptsd("label", class_set)(data)
    assert [classes(named) for named in result["named"]] == [[1], [6], [27], [1, 6, 27]]
    split = ValidationPromptsd("label", class_set, max_classes_per_prompt=2)(data)
    assert [classes(named) for named in split["named"]] == [[1], [6], [27], [1, 6]]
    for prompts in (result, split):
        for named, prompt in zip(prompts["named"], prompts["prompt"], strict=True):
            assert prompt == write_sentence(class_set, classes(named))
            assert sorted(resolve_prompt(prompt, class_set).indices) == classes(named)


def test_validation_in_words_held_out_of_training(class_set: ClassSet) -> None:
    target = MetaTensor(target_of(class_set, [1, 6, 8]), meta={"filename_or_obj": "/data/a.nii.gz"})
    result = ValidationPromptsd("label", class_set, prompt_texts=("held out",))({"label": target})
    beside = ValidationPromptsd("label", class_set, prompt_texts=("raw", "held out"))({"label": target})
    assert beside["prompt"][-4:] == result["prompt"], "the same with any other wordings"
    with pytest.raises(ValueError, match="'hippocampus' does not: add them"):
        ValidationPromptsd("label", load_class_set("hippocampus"), prompt_texts=("held out",))
    assert result["prompt_text"] == ["held out"] * 4  # three alone, all together
    for prompt, named in zip(result["prompt"], result["named"], strict=True):
        assert sorted(resolve_prompt(prompt, class_set).indices) == classes(named)
        ways = [template.split("{names}") for template in class_set.held_out_templates]
        assert any(prompt.startswith(before) and prompt.endswith(after) for before, after in ways)
        assert all(any(word in prompt for word in class_set[index].held_out) for index in classes(named))


def test_validation_in_the_words_of_users(class_set: ClassSet) -> None:
    def prompts_of(name: str) -> dict[Hashable, Any]:
        target = MetaTensor(target_of(class_set, [1, 2, 3, 4, 6, 8, 21]), meta={"filename_or_obj": f"/data/{name}"})
        return ValidationPromptsd("label", class_set, prompt_texts=("canonical", "raw"))({"label": target})

    result = prompts_of("a.nii.gz")
    assert result["prompt_text"] == ["canonical"] * 8 + ["raw"] * 9  # seven alone; all in one sentence, in two
    for wording, prompt, named in zip(result["prompt_text"], result["prompt"], result["named"], strict=True):
        assert sorted(resolve_prompt(prompt, class_set).indices) == classes(named)
        if wording == "canonical":
            assert prompt == write_sentence(class_set, classes(named))
    assert len(set(result["prompt"][8:]) - set(result["prompt"][:8])) > 5  # chance may write a canonical one
    assert prompts_of("a.nii.gz")["prompt"] == result["prompt"]
    assert prompts_of("b.nii.gz")["prompt"][8:] != result["prompt"][8:]
    with pytest.raises(ValueError, match=r"prompt_texts must be some of .*, not \['typed'\]"):
        ValidationPromptsd("label", class_set, prompt_texts=["typed"])


def test_a_network_that_does_not_read_prompts_gets_one(class_set: ClassSet) -> None:
    data: dict[Hashable, Any] = {"label": target_of(class_set, [1, 6, 27])}
    result = ValidationPromptsd("label", class_set, max_classes_per_prompt=2, requests="dataset")(data)
    assert [classes(named) for named in result["named"]] == [[1, 6, 27]]
    assert EncodePromptd("prompt", NoText())(result)["text"].shape == (1, 0)
    with pytest.raises(ValueError, match=r"requests must be one of \['per_class', 'dataset'\], not 'all'"):
        ValidationPromptsd("label", class_set, requests="all")


def test_one_sentence_is_a_vector_and_a_list_is_a_matrix() -> None:
    encode = EncodePromptd("prompt", PromptBank(encoder=LetterCounts()))
    one, several = encode({"prompt": "liver"})["text"], encode({"prompt": ["liver", "spleen"]})["text"]
    torch.testing.assert_close(one, LetterCounts()(["liver"])[0])
    torch.testing.assert_close(several, LetterCounts()(["liver", "spleen"]))
