"""dataset.json: data dicts, value tables, and messages on errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from custom.anatomy.class_set import ClassSet
from custom.datasets.dataset_json import Cases, describe_data, read_data_list, warn_of_unlearned
from custom.datasets.labels import value_table
from custom.losses.partial_label import PartialLabelLoss
from custom.transforms.labels import LabelsToTargetd
from custom.transforms.training_prompts import ValidationPromptsd
from custom.weights.header import trained_on

LABELS: dict[str, str | list[str]] = {
    "0": "background",
    "1": "spleen",
    "3": "liver",
    "7": ["liver tumor", "liver"],
    "9": [],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of three cases with empty files: reading the list opens none of them."""
    for name in ("a", "b", "c"):
        for kind in ("image", "label"):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / f"{name}.nii.gz").touch()
    cases = [{"image": f"image/{name}.nii.gz", "label": f"./label/{name}.nii.gz"} for name in ("a", "b", "c")]
    write(tmp_path, labels=LABELS, training=cases[:2], validation=cases[2:])
    return tmp_path


def write(folder: Path, **changes: Any) -> None:
    """Change entries of dataset.json; None removes one."""
    file = folder / "dataset.json"
    content = (json.loads(file.read_text()) if file.exists() else {}) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_split_becomes_data_dicts(folder: Path, class_set: ClassSet) -> None:
    data = read_data_list(str(folder), "training", class_set)
    assert [case["image"] for case in data] == [str(folder / "image" / f"{name}.nii.gz") for name in "ab"]
    assert [case["label"] for case in data] == [str(folder / "label" / f"{name}.nii.gz") for name in "ab"]
    expected = value_table(LABELS, class_set, source="here")
    for case in data:
        assert case.keys() == {"image", "label", "dataset", "value_table", "sides"}
        torch.testing.assert_close(case["value_table"], expected)
    assert len(read_data_list(folder, "validation", class_set)) == 1


@pytest.mark.parametrize(
    ("content", "stated", "words"),
    [
        ({"name": "phantom", "seed": 3}, {"name": "phantom", "seed": 3}, "synthetic phantoms only, not patients"),
        ({"name": "ours", "description": " CT of\n40 patients "}, None, "CT of 40 patients"),
        ({"name": "ours", "licence": "CC-BY-SA 4.0"}, {"name": "ours", "licence": "CC-BY-SA 4.0"}, "ours"),
        ({"name": 3}, {}, "data that the weights do not name"),
        ({}, {}, "data that the weights do not name"),
    ],
)
def test_weights_say_what_they_learned_from_in_its_own_words(
    folder: Path, content: dict[str, Any], stated: dict[str, Any] | None, words: str
) -> None:
    write(folder, **content)
    data = describe_data(folder, [1, 2])
    assert data == (content if stated is None else stated) | {"training_cases": 2}
    assert trained_on({"provenance": {"data": data}}) == words


def test_data_sets_of_cases_are_named(folder: Path) -> None:
    training = json.loads((folder / "dataset.json").read_text())["training"]
    write(folder, training=[case | {"dataset": name} for case, name in zip(training, ("LiTS", "BTCV"), strict=True)])
    assert describe_data(folder, [1, 2]) == {"name": "BTCV, LiTS", "training_cases": 2}


def test_a_case_may_name_its_data_set(folder: Path, class_set: ClassSet) -> None:
    assert {case["dataset"] for case in read_data_list(folder, "training", class_set)} == {folder.name}
    write(folder, name="ours")
    assert {case["dataset"] for case in read_data_list(folder, "training", class_set)} == {"ours"}
    training = json.loads((folder / "dataset.json").read_text())["training"]
    write(folder, training=[training[0] | {"dataset": "10_03"}, training[1] | {"labels": {"1": "kidneys"}}])
    cases = read_data_list(folder, "training", class_set)
    assert [case["dataset"] for case in cases] == ["10_03", "ours"]
    assert [case["sides"] for case in cases] == [{}, {"kidneys": {1: (1, 2)}}]
    write(folder, name=["ours"])
    with pytest.raises(ValueError, match='"dataset" or "name" must be a string'):
        read_data_list(folder, "training", class_set)


def test_images_without_labels(folder: Path, class_set: ClassSet) -> None:
    """Our split of them, and the Decathlon's test list of plain paths, which leaves no case to test on."""
    write(folder, test=["./image/a.nii.gz"], unlabelled=[{"image": "image/b.nii.gz", "dataset": "06"}])
    assert read_data_list(folder, "unlabelled", class_set) == [
        {"image": str(folder / "image" / "b.nii.gz"), "dataset": "06"},
        {"image": str(folder / "image" / "a.nii.gz"), "dataset": folder.name},
    ]
    with pytest.raises(ValueError, match=r"'test' lists no cases; .*validation \(1\), unlabelled \(2\)"):
        read_data_list(folder, "test", class_set)


def test_relative_folders_and_home_are_understood(
    folder: Path, class_set: ClassSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for spelling in (folder.name, f"~/{folder.name}"):
        (case,) = read_data_list(spelling, "validation", class_set)
        assert case["image"] == str(folder / "image" / "c.nii.gz")


@pytest.mark.parametrize(
    ("changes", "split", "error", "message"),
    [
        ({}, "test", ValueError, r"'test' lists no cases; splits with cases: training \(2\), validation \(1\)"),
        ({"training": []}, "training", ValueError, "'training' lists no cases"),
        ({"training": [{"image": "image/a.nii.gz", "label": "x"}]}, "training", FileNotFoundError, "1 files .*x"),
        ({"training": [{"image": "x", "label": "y"}]}, "training", FileNotFoundError, "2 files .*x.*y"),
        ({"training": [{"image": "image/a.nii.gz"}]}, "training", ValueError, "every case of 'training' must be"),
        ({"training": ["image/a.nii.gz"]}, "training", ValueError, "every case of 'training' must be"),
        ({"labels": {"1": "splen"}}, "training", ValueError, "label value 1.*not 'splen'. Nearest: spleen"),
        ({"labels": {"1": "all tumors"}}, "training", ValueError, "label value 1: a group must be exactly a right and"),
        ({"labels": {"300": "spleen"}}, "training", ValueError, r"integers of 0\.\.255, not '300'"),
        ({"labels": {"-1": "spleen"}}, "training", ValueError, r"integers of 0\.\.255, not '-1'"),
        ({"labels": {"1.0": "spleen"}}, "training", ValueError, r"integers of 0\.\.255, not '1\.0'"),
        ({"labels": {"spleen": 1}}, "training", ValueError, r"integers of 0\.\.255, not 'spleen'"),
        ({"labels": {"1": 6}}, "training", ValueError, "label value 1 must mean a class name or a list of them, not 6"),
        ({"labels": {"1": [6]}}, "training", ValueError, "label value 1 must mean a class name"),
        ({"labels": {"0": "background"}}, "training", ValueError, '"labels" must map raw values to classes'),
        ({"labels": ["spleen"]}, "training", ValueError, '"labels" must map raw values'),
        ({"labels": None}, "training", ValueError, '"labels" must map raw values to classes'),
    ],
)
def test_errors_are_explained(
    folder: Path, class_set: ClassSet, changes: dict[str, Any], split: str, error: type[Exception], message: str
) -> None:
    write(folder, **changes)
    with pytest.raises(error, match=message) as caught:
        read_data_list(folder, split, class_set)
    assert str(folder / "dataset.json") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"labels": {},', "is not JSON: .*line 1"),
        ("[]", "must hold an object"),
        ("", "is not JSON"),
        ('{"labels": {"1": "liver", "1": "spleen"}}', "a name may occur once in an object, not '1' twice"),
    ],
)
def test_a_file_that_is_no_dataset_is_refused(folder: Path, class_set: ClassSet, text: str, message: str) -> None:
    (folder / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_data_list(folder, "training", class_set)
    assert str(folder / "dataset.json") in str(caught.value)


def test_an_image_occurs_once_in_a_split(folder: Path, class_set: ClassSet) -> None:
    images = {"a": "image/a.nii.gz", "b": "./image/a.nii.gz"}
    cases = [{"image": image, "label": f"label/{name}.nii.gz"} for name, image in images.items()]
    write(folder, training=cases, validation=cases[:1])
    with pytest.raises(ValueError, match=r"an image may occur once in a split, not image/a\.nii\.gz \(1 such\)"):
        read_data_list(folder, "training", class_set)
    write(folder, training=cases[:1])  # to overfit one case, say
    training, validation = (read_data_list(folder, split, class_set) for split in ("training", "validation"))
    assert [case["image"] for case in training] == [case["image"] for case in validation]


def test_a_folder_without_dataset_is_refused(tmp_path: Path, class_set: ClassSet) -> None:
    with pytest.raises(FileNotFoundError, match=r"dataset\.json does not exist: --dataset_dir"):
        read_data_list(tmp_path, "training", class_set)


def test_the_highest_label_value(folder: Path, class_set: ClassSet) -> None:
    assert Cases(folder, class_set).highest_label_value == 9
    write(folder, labels={"1": "kidneys"})
    assert Cases(folder, class_set).highest_label_value == 2
    write(folder, labels=None)
    with pytest.raises(ValueError, match='"labels" must map raw values to classes'):
        _ = Cases(folder, class_set).highest_label_value


def partly(folder: Path, labels: Any = None, **own: Any) -> None:
    """Give the cases named in ``own`` labels of their own."""
    content = json.loads((folder / "dataset.json").read_text())
    for split in ("training", "validation"):
        for case in content[split]:
            name = Path(case["image"]).name[0]
            case |= {"labels": own[name]} if name in own else {}
    write(folder, labels=labels, training=content["training"], validation=content["validation"])


def test_labels_of_a_case_replace_those_of_the_data_set(folder: Path, class_set: ClassSet) -> None:
    partly(folder, LABELS, b={"1": "aorta"}, c={"12": "stomach"})
    a, b = read_data_list(folder, "training", class_set)
    (c,) = read_data_list(folder, "validation", class_set)
    for case, labels in ((a, LABELS), (b, {"1": "aorta"}), (c, {"12": "stomach"})):
        torch.testing.assert_close(case["value_table"], value_table(labels, class_set, source="here"))
    assert Cases(folder, class_set).labelled_classes == ["spleen", "liver", "aorta", "liver tumor"]
    assert Cases(folder, class_set).highest_label_value == 12


def test_every_case_may_have_labels_of_its_own(folder: Path, class_set: ClassSet) -> None:
    partly(folder, None, a={"1": "spleen"}, b={"2": "Aorta"}, c={"1": "stomach"})
    assert Cases(folder, class_set).labelled_classes == ["spleen", "aorta"]
    assert Cases(folder, class_set).highest_label_value == 2
    assert len(read_data_list(folder, "training", class_set)) == 2


def test_without_labels_of_the_data_set_no_case_may_lack_them(folder: Path, class_set: ClassSet) -> None:
    partly(folder, None, a={"1": "spleen"})
    with pytest.raises(ValueError, match='"labels" must map raw values to classes'):
        read_data_list(folder, "training", class_set)
    partly(folder, LABELS, b={"1": "splen"})
    with pytest.raises(ValueError, match=r"case '\./label/b\.nii\.gz': label value 1.*not 'splen'. Nearest: spleen"):
        read_data_list(folder, "training", class_set)
    with pytest.raises(ValueError, match=r"case '\./label/b\.nii\.gz': label value 1"):
        _ = Cases(folder, class_set).labelled_classes


def test_what_a_case_does_not_label_is_neither_trained_nor_scored(folder: Path, class_set: ClassSet) -> None:
    """Cases a and b hold the same voxels and name them otherwise; each class learns from its own case alone."""
    partly(folder, None, a={"1": "spleen", "3": "liver"}, b={"1": "spleen"}, c={"1": "spleen"})
    label = torch.zeros(1, 4, 4, 4)
    label[0, 0], label[0, 1] = 1, 3
    a, b = read_data_list(folder, "training", class_set)
    liver = class_set.index("liver") - 1
    items: list[Any] = [a | {"label": label}, b | {"label": torch.where(label == 3, 0, label)}]
    target_a, target_b = (LabelsToTargetd("label")(item)["label"] for item in items)
    logits = torch.zeros(2, len(class_set), 4, 4, 4, requires_grad=True)
    PartialLabelLoss()(logits, torch.stack([target_a, target_b])).backward()
    assert logits.grad is not None
    learned = logits.grad.flatten(2).any(2)
    assert [sorted(class_set.names[i] for i in case.nonzero().flatten()) for case in learned] == [
        ["liver", "spleen"],
        ["spleen"],
    ]
    named = [ValidationPromptsd("label", class_set)({"label": target})["named"] for target in (target_a, target_b)]
    assert [len(part) for part in named] == [3, 1]
    assert named[0][:, liver].tolist() == [False, True, True]
    assert not named[1][:, liver].any()


def test_scores_of_classes_that_weights_do_not_know_are_warned_of(
    folder: Path, class_set: ClassSet, caplog: pytest.LogCaptureFixture
) -> None:
    cases = read_data_list(folder, "training", class_set)
    for learned in (["spleen", "liver", "liver tumor", "aorta"], []):
        warn_of_unlearned(cases, class_set, learned)
    assert not caplog.text
    warn_of_unlearned(cases, class_set, ["spleen", "aorta"])
    assert "not trained on liver, liver tumor, which the data set labels" in caplog.text
