"""Folds of cross-validation, and what tells two lists of cases apart."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from custom.anatomy.class_set import ClassSet
from custom.datasets.dataset_json import Cases, describe_cases

NAMES = [f"case_{index}/image.nii.gz" for index in range(11)]


def write(folder: Path, names: list[str], labels: dict[str, Any] | None = None) -> Path:
    for name in [*NAMES, "validation.nii.gz"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    content = {
        "labels": labels or {"1": "spleen"},
        "training": [{"image": name, "label": name} for name in names],
        "validation": [{"image": "validation.nii.gz", "label": "validation.nii.gz"}],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def images(folder: Path, split: str, class_set: ClassSet, **fold: Any) -> list[str]:
    cases = Cases(folder, class_set, **fold).read(split)
    return [Path(case["image"]).relative_to(folder).as_posix() for case in cases]


def test_folds_part_the_training_list_whatever_its_order(tmp_path: Path, class_set: ClassSet) -> None:
    folder = write(tmp_path, NAMES)
    held_out = [images(folder, "validation", class_set, folds=4, fold=fold) for fold in range(4)]
    assert sorted(name for part in held_out for name in part) == sorted(NAMES)
    assert sorted(map(len, held_out)) == [2, 3, 3, 3]
    for fold, part in enumerate(held_out):
        assert images(folder, "training", class_set, folds=4, fold=fold) == [n for n in NAMES if n not in part]
    write(folder, random.Random(0).sample(NAMES, len(NAMES)))
    shuffled = [sorted(images(folder, "validation", class_set, folds=4, fold=fold)) for fold in range(4)]
    assert shuffled == [sorted(part) for part in held_out]


def test_without_folds_the_lists_are_the_data_sets_own(tmp_path: Path, class_set: ClassSet) -> None:
    folder = write(tmp_path, NAMES)
    assert images(folder, "training", class_set) == NAMES
    assert images(folder, "validation", class_set, folds=None, fold=3) == ["validation.nii.gz"]


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (12, 0), (5, 5), (5, -1)])
def test_numbers_that_make_no_folds_are_refused(tmp_path: Path, class_set: ClassSet, folds: int, fold: int) -> None:
    folder = write(tmp_path, NAMES)
    with pytest.raises(ValueError, match=rf"--cases::folds must be 2 to 11 .* not {folds} and {fold}\."):
        Cases(folder, class_set, folds=folds, fold=fold).read("training")


def test_the_same_cases_elsewhere_are_the_same_and_others_are_not(tmp_path: Path, class_set: ClassSet) -> None:
    def described(folder: str, names: list[str], **labels: Any) -> str:
        return describe_cases(Cases(write(tmp_path / folder, names, **labels), class_set).read("training"))

    here = described("here", NAMES)
    assert here.startswith("11 cases (")
    assert described("there", NAMES[::-1]) == here
    others = {described("here", NAMES[1:]), described("here", NAMES, labels={"1": "liver"})}
    assert len(others | {here}) == 3
