"""Targets with unknown channels, prompts for training, validation and inference, and patients that keep their sides."""

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose

from custom.anatomy.class_set import ClassSet
from custom.anatomy.loading import load_class_set
from custom.datasets.labels import UNASKED, UNKNOWN, value_table
from custom.prompts.grammar import PromptError, UnknownOrganError
from custom.prompts.resolve import resolve_prompt
from custom.prompts.sentences import write_sentence
from custom.text.bank import MissingPromptError, PromptBank
from custom.text.encoders import PromptTooLongError
from custom.text.no_text import NoText
from custom.transforms.intensity import scale_intensity
from custom.transforms.labels import ClearUnlabelledd, LabelsToTargetd, labelled_classes
from custom.transforms.training_prompts import EncodePromptd, SamplePromptd, ValidationPromptsd, split_evenly
from custom.transforms.user_prompts import ResolvePromptd
from tests.helpers import ROOT

CONFIG = ROOT / "bundles" / "film_swinunetr" / "configs" / "train.json"
LABELS: dict[str, str | list[str]] = {"1": "spleen", "2": "liver", "7": ["liver tumor", "liver"]}
SPLEEN, LIVER, LIVER_TUMOR = 1, 6, 27


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


class LetterCounts:
    """A text encoder small enough to read: how often each letter occurs."""

    encoder_id = "letters"
    kind = "counts"
    dimension = 26

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(prompt.lower().count(chr(97 + i))) for i in range(26)] for prompt in prompts])


def target_of(class_set: ClassSet, labelled: Sequence[int], present: Sequence[int] = ()) -> torch.Tensor:
    """Target (K, 2, 2, 2): ``present`` classes 1 in a corner, other ``labelled`` ones 0, the rest UNKNOWN."""
    target = torch.full((len(class_set), 2, 2, 2), UNKNOWN, dtype=torch.int8)
    target[[index - 1 for index in labelled]] = 0
    target[[index - 1 for index in present], 0, 0, 0] = 1
    return target


def classes(named: torch.Tensor) -> list[int]:
    return [int(channel) + 1 for channel in named.nonzero().flatten()]


def test_label_values_become_known_and_unknown_channels(class_set: ClassSet) -> None:
    label = MetaTensor(torch.tensor([0.0, 1, 2, 7]).reshape(1, 4, 1, 1), meta={"filename_or_obj": "a.nii"})
    data: dict[Hashable, Any] = {"label": label, "value_table": value_table(LABELS, class_set, source="dataset.json")}
    target = LabelsToTargetd("label")(data)["label"]
    assert target.shape == (len(class_set), 4, 1, 1)
    assert target.dtype == torch.int8
    assert target.meta["filename_or_obj"] == "a.nii"
    expected = {SPLEEN: [0, 1, 0, 0], LIVER: [0, 0, 1, 1], LIVER_TUMOR: [0, 0, 0, 1]}
    for item in class_set:
        assert target[item.index - 1].flatten().tolist() == expected.get(item.index, [UNKNOWN] * 4), item.name
    assert labelled_classes(target) == [SPLEEN, LIVER, LIVER_TUMOR]
    torch.testing.assert_close(
        LabelsToTargetd("label")(data | {"label": label.as_tensor()})["label"], target.as_tensor()
    )


@pytest.mark.parametrize("value", [3.0, 255.0, 256.0, -1.0, 1.5])
def test_undeclared_label_values_are_refused(class_set: ClassSet, value: float) -> None:
    label = MetaTensor(torch.tensor([0.0, 1, value]).reshape(1, 3, 1, 1), meta={"filename_or_obj": "bad.nii.gz"})
    found = "fractions" if value % 1 else rf"\[{value:.0f}\]"
    with pytest.raises(ValueError, match=rf"bad\.nii\.gz: .*declares; found {found}"):
        LabelsToTargetd("label")({"label": label, "value_table": value_table(LABELS, class_set, source="x")})


@pytest.mark.parametrize("max_classes_per_prompt", [3, 16])
def test_sampled_sentences_name_exactly_what_the_target_answers(
    class_set: ClassSet, max_classes_per_prompt: int
) -> None:
    labelled = [1, 2, 3, 4, 6, 7, 8, 11, 12, 13, 14, 16, 17, 18, 26, 27, 32]
    target = target_of(class_set, labelled, present=[1, 6, 27])
    before = target.clone()
    sample = SamplePromptd("label", class_set, max_classes_per_prompt=max_classes_per_prompt).set_random_state(0)
    sizes, sentences = set(), set()
    for _ in range(200):
        result = sample({"label": target})
        asked = classes(result["named"])
        assert asked
        assert set(asked) <= set(labelled)
        assert sorted(resolve_prompt(result["prompt"], class_set).indices) == asked
        for item in class_set:
            answer = result["label"][item.index - 1]
            truth = before[item.index - 1]  # UNKNOWN throughout where the class is not labelled
            unasked = item.index in labelled and item.index not in asked
            assert torch.equal(answer, torch.where(truth == 1, UNASKED, truth) if unasked else truth)
        sizes.add(len(asked))
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


def test_classes_in_the_crop_are_asked_for_more_often(class_set: ClassSet) -> None:
    data: dict[Hashable, Any] = {"label": target_of(class_set, range(1, 15), present=[6])}
    options: dict[str, Any] = {"max_classes_per_prompt": 1, "dataset_probability": 0.0}

    def share(weight: float) -> float:
        sample = SamplePromptd("label", class_set, present_weight=weight, **options).set_random_state(0)
        return sum(classes(sample(data)["named"]) == [6] for _ in range(200)) / 200

    assert share(1) < 0.2  # expected: 1 / 14
    assert share(100) > 0.8  # 100 / 113


def test_paired_organs_are_asked_for_on_both_sides(class_set: ClassSet) -> None:
    data: dict[Hashable, Any] = {"label": target_of(class_set, [2, 3, 6, 16])}
    options: dict[str, Any] = {"dataset_probability": 0.0}

    def draws(share: float, most: int) -> list[list[int]]:
        sample = SamplePromptd("label", class_set, both_probability=share, max_classes_per_prompt=most, **options)
        sample.set_random_state(0)
        return [classes(sample(data)["named"]) for _ in range(200)]

    always = draws(1, 4)
    assert all((2 in asked) == (3 in asked) for asked in always)
    assert [2, 3] in always and [16] in always, "the left lung is not labelled"
    assert [2] in draws(0, 4)
    assert {len(asked) for asked in draws(1, 1)} == {1}, "never more than a sentence may name"


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


def test_validation_asks_for_each_class_and_for_the_data_set(class_set: ClassSet) -> None:
    data: dict[Hashable, Any] = {"label": target_of(class_set, [1, 6, 27])}
    result = ValidationPromptsd("label", class_set)(data)
    assert [classes(named) for named in result["named"]] == [[1], [6], [27], [1, 6, 27]]
    split = ValidationPromptsd("label", class_set, max_classes_per_prompt=2)(data)
    assert [classes(named) for named in split["named"]] == [[1], [6], [27], [1, 6]]
    for answer in (result, split):
        for named, prompt in zip(answer["named"], answer["prompt"], strict=True):
            assert prompt == write_sentence(class_set, classes(named))
            assert sorted(resolve_prompt(prompt, class_set).indices) == classes(named)


def test_validation_asks_in_words_held_out_of_training(class_set: ClassSet) -> None:
    target = MetaTensor(target_of(class_set, [1, 6, 8]), meta={"filename_or_obj": "/data/a.nii.gz"})
    result = ValidationPromptsd("label", class_set, prompt_texts=("held out",))({"label": target})
    beside = ValidationPromptsd("label", class_set, prompt_texts=("raw", "held out"))({"label": target})
    assert beside["prompt"][-4:] == result["prompt"], "the same whatever else is asked"
    with pytest.raises(ValueError, match="'hippocampus' does not: add them"):
        ValidationPromptsd("label", load_class_set("hippocampus"), prompt_texts=("held out",))
    assert result["prompt_text"] == ["held out"] * 4  # three alone, all together
    for prompt, named in zip(result["prompt"], result["named"], strict=True):
        assert sorted(resolve_prompt(prompt, class_set).indices) == classes(named)
        ways = [template.split("{names}") for template in class_set.held_out_templates]
        assert any(prompt.startswith(before) and prompt.endswith(after) for before, after in ways)
        assert all(any(word in prompt for word in class_set[index].held_out) for index in classes(named))


def test_validation_asks_in_the_words_of_users_too(class_set: ClassSet) -> None:
    def ask(name: str) -> dict[Hashable, Any]:
        target = MetaTensor(target_of(class_set, [1, 2, 3, 4, 6, 8, 21]), meta={"filename_or_obj": f"/data/{name}"})
        return ValidationPromptsd("label", class_set, prompt_texts=("canonical", "raw"))({"label": target})

    result = ask("a.nii.gz")
    assert result["prompt_text"] == ["canonical"] * 8 + ["raw"] * 9  # seven alone; all in one sentence, in two
    for wording, prompt, named in zip(result["prompt_text"], result["prompt"], result["named"], strict=True):
        assert sorted(resolve_prompt(prompt, class_set).indices) == classes(named)
        if wording == "canonical":
            assert prompt == write_sentence(class_set, classes(named))
    assert len(set(result["prompt"][8:]) - set(result["prompt"][:8])) > 5  # chance may write a canonical one
    assert ask("a.nii.gz")["prompt"] == result["prompt"]
    assert ask("b.nii.gz")["prompt"][8:] != result["prompt"][8:]
    with pytest.raises(ValueError, match=r"prompt_texts must be some of .*, not \['typed'\]"):
        ValidationPromptsd("label", class_set, prompt_texts=["typed"])


def test_a_network_that_does_not_read_is_asked_once(class_set: ClassSet) -> None:
    data: dict[Hashable, Any] = {"label": target_of(class_set, [1, 6, 27])}
    result = ValidationPromptsd("label", class_set, max_classes_per_prompt=2, requests="dataset")(data)
    assert [classes(named) for named in result["named"]] == [[1, 6, 27]]
    assert EncodePromptd("prompt", NoText())(result)["text"].shape == (1, 0)
    with pytest.raises(ValueError, match=r"requests must be one of \['per_class', 'dataset'\], not 'all'"):
        ValidationPromptsd("label", class_set, requests="all")


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


def test_one_sentence_is_a_vector_and_a_list_is_a_matrix() -> None:
    encode = EncodePromptd("prompt", PromptBank(encoder=LetterCounts()))
    one, several = encode({"prompt": "liver"})["text"], encode({"prompt": ["liver", "spleen"]})["text"]
    torch.testing.assert_close(one, LetterCounts()(["liver"])[0])
    torch.testing.assert_close(several, LetterCounts()(["liver", "spleen"]))


@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(1, 16, [1]), (16, 16, [16]), (17, 16, [9, 8]), (32, 16, [16, 16]), (5, 1, [1] * 5)]
)
def test_split_evenly(count: int, most: int, sizes: list[int]) -> None:
    parts = split_evenly(range(count), most)
    assert [len(part) for part in parts] == sizes
    assert [index for part in parts for index in part] == list(range(count))


@pytest.mark.parametrize("by_class", [False, True])
def test_training_augmentation_never_turns_a_patient_over(by_class: bool) -> None:
    """Left and right are words of the prompt: no augmentation may exchange them."""
    parser = ConfigParser()
    parser.read_config(str(CONFIG))
    parser["roi_size"] = [8, 8, 8]
    parser["highest_label_value"] = 12
    parser["crop_datasets"], parser["crop_ratios"] = ["*"] if by_class else [], []
    parser["zoom_datasets"] = []
    augment = Compose(parser.get_parsed_content("train::augmentation")).set_random_state(0)
    across = torch.arange(12.0).reshape(1, 12, 1, 1).expand(1, 12, 12, 12)
    upwards = torch.arange(12.0).expand(1, 12, 12, 12)
    label = (across + 1) * (upwards > 5)
    turned = 0
    for _ in range(100):
        crops = augment({"image": MetaTensor(torch.cat([across, upwards])), "label": MetaTensor(label.clone())})
        assert len(crops) == parser["samples_per_volume"]
        for crop in crops:
            x, z = crop["image"].as_tensor()
            torch.testing.assert_close(x.diff(dim=0), torch.ones(7, 8, 8))
            assert (x.diff(dim=1).abs().max(), x.diff(dim=2).abs().max()) == (0, 0)
            marked = crop["label"][0] > 0
            first = crop["label"].max() - 7  # label of the leftmost plane
            assert torch.equal(crop["label"][0], (first + torch.arange(8.0).reshape(8, 1, 1)) * marked)
            turned += not torch.allclose(z.diff(dim=2), torch.ones(8, 8, 7))
    assert turned > 0  # it does rotate, about the left-right axis only


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


def test_values_without_a_class_are_cleared_before_the_crops(class_set: ClassSet) -> None:
    table = value_table({"1": "spleen", "2": [], "27": ["liver"]}, class_set, source="here")
    label = torch.tensor([0.0, 1, 2, 27, 200]).reshape(1, 5, 1, 1)
    result = ClearUnlabelledd("label")({"label": label, "value_table": table})
    assert result["label"].flatten().tolist() == [0, 1, 0, 27, 200]


def test_intensities_are_scaled_as_the_class_set_says(class_set: ClassSet) -> None:
    """CT by its window in HU; MR, which has no unit, the same whatever it is multiplied with."""
    image = torch.linspace(-200, 300, 1001)[None, None]
    scaled = scale_intensity("image", class_set)({"image": image})["image"]
    torch.testing.assert_close(scaled.as_tensor(), ((image + 175) / 425).clamp(0, 1))
    once, thrice = (
        scale_intensity("image", load_class_set("hippocampus"))({"image": factor * (image + 200)})["image"].as_tensor()
        for factor in (1, 3)
    )
    torch.testing.assert_close(once, thrice)
    torch.testing.assert_close(once, ((torch.linspace(0, 100, 1001)[None, None] - 0.5) / 99).clamp(0, 1))
