"""The catalogue against the table of the references, typed here a second time by class numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from custom.anatomy.class_set import ClassSet
from custom.datasets.catalogue import load_catalogue
from custom.datasets.labels import value_table

#: Pairs of a right and a left class, by the number of the class that the table gives for both.
BOTH = {2: (2, 3), 12: (12, 13), 16: (16, 17)}

#: Key -> raw values 1..n as class numbers (0: none), the values that are split by side, the labelled classes.
TABLE: dict[str, tuple[list[int], set[int], set[int]]] = {
    "01": ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], set(), set(range(1, 15))),
    "02": ([1, 0, 3, 4, 5, 6, 7, 0, 0, 0, 11, 0, 0, 14], set(), {1, 3, 4, 5, 6, 7, 11, 14}),
    "03": ([6], set(), {6}),
    "04": ([6, 27], set(), {6, 27}),
    "05": ([2, 26, 32], {1, 2, 3}, {2, 3, 26, 32}),
    "07": (
        [6, 1, 3, 2, 7, 4, 5, 11, 14, 18, 19, 12, 20, 21, 23, 24],
        {12},
        {6, 1, 3, 2, 7, 4, 5, 11, 14, 18, 19, 12, 20, 21, 23, 24, 13},
    ),
    "08": ([6, 2, 1, 11], {2}, {6, 2, 3, 1, 11}),
    "09": (
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 21, 22],
        set(),
        {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 21, 22},
    ),
    "12": ([6, 21, 16, 2], {3, 4}, {6, 21, 16, 17, 2, 3}),
    "13": ([6, 2, 1, 11, 8, 9, 7, 4, 5, 12, 13, 25], {2}, {6, 2, 1, 11, 8, 9, 7, 4, 5, 12, 13, 25, 3}),
    "10_03": ([6, 27], set(), {6, 27}),
    "10_06": ([30], set(), {30}),
    "10_07": ([11, 28], set(), {11, 28}),
    "10_08": ([15, 29], set(), {15, 29}),
    "10_09": ([1], set(), {1}),
    "10_10": ([31], set(), {31}),
}

#: Key and raw value -> the organ that the tumour or cyst is part of.
ORGANS = {("04", 2): 6, ("10_03", 2): 6, ("10_07", 2): 11, ("05", 2): 2, ("05", 3): 2}

FOLDERS = {
    **{key: f"{key}_Whatever" for key in TABLE if not key.startswith("10_")},
    "01": "01_Multi-Atlas_Labeling",
    "06": "06_3D-IRCADb",
    **{f"10_{n:02}": f"10_Decathlon/Task{n:02}_Name" for n in (3, 6, 7, 8, 9, 10)},
}


def classes(labels: Any, class_set: ClassSet, value: int) -> set[int]:
    return {i for i, member in enumerate(value_table(labels, class_set, source="")[value].tolist(), 1) if member == 1}


def labelled(labels: Any, class_set: ClassSet) -> set[int]:
    return {i for i, row in enumerate(value_table(labels, class_set, source="")[0].tolist(), 1) if row == 0}


@pytest.mark.parametrize("key", TABLE)
def test_a_row_is_the_references(key: str, class_set: ClassSet) -> None:
    values, split, known = TABLE[key]
    row = load_catalogue()[key]
    assert {int(value) for value, names in row.labels.items() if names} == {v for v, c in enumerate(values, 1) if c}
    assert labelled(row.labels, class_set) == known
    for value, number in enumerate(values, start=1):
        if number:
            organs = {number, ORGANS.get((key, value), number)}
            right = {BOTH[c][0] if value in split and c in BOTH else c for c in organs}
            assert classes(row.labels, class_set, value) == right
    assert not row.evaluation_only


def test_left_parts(class_set: ClassSet) -> None:
    """KiTS: the left of kidney, tumour and cyst; CT-ORG: of lungs and kidneys, and what it ignores."""
    kits, organs = (load_catalogue()[key].labels for key in ("05", "12"))
    assert [classes(kits, class_set, value) for value in (4, 5, 6)] == [{3}, {3, 26}, {3, 32}]
    assert [classes(organs, class_set, value) for value in (7, 8)] == [{17}, {3}]
    assert organs["5"] == organs["6"] == []


def test_the_catalogue_is_the_table() -> None:
    assert load_catalogue().keys() == {*TABLE, "06"}


def test_a_data_set_for_evaluation(class_set: ClassSet) -> None:
    row = load_catalogue()["06"]
    assert row.evaluation_only
    assert labelled(row.labels, class_set) == {1, 2, 3, 4, 6, 7, 11, 16, 17}


@pytest.mark.parametrize(("number", "own"), [(1, False), (40, False), (59, False), (60, True), (80, True), (160, True)])
def test_some_cases_of_btcv_have_other_labels(class_set: ClassSet, number: int, own: bool) -> None:
    labels = load_catalogue()["01"].labels_of(f"01_Multi-Atlas_Labeling/img/img{number:04}.nii.gz")
    assert labelled(labels, class_set) == ({1, 3, 4, 5, 6, 7, 11, 14} if own else set(range(1, 15)))


@pytest.mark.parametrize("key", FOLDERS)
def test_a_folder_is_of_one_data_set(key: str) -> None:
    path = f"{FOLDERS[key]}/img/a.nii.gz"
    assert [name for name, row in load_catalogue().items() if row.holds(path)] == [key]
    assert not any(row.holds(f"more/{path}") or row.holds(FOLDERS[key]) for row in load_catalogue().values())


def test_a_file_adds_and_replaces_data_sets(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    row = {"name": "Ours", "folder": "20_Ours", "labels": {"1": "liver"}}
    file.write_text(json.dumps({"20": row, "03": row | {"folder": "03_CHAOS"}}))
    catalogue = load_catalogue(file)
    assert catalogue["20"].holds("20_Ours/a.nii.gz") and catalogue["03"].name == "Ours"
    assert len(catalogue) == len(load_catalogue()) + 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"labels": None}, "must have name, folder and labels"),
        ({"label": {}}, "must have name, folder and labels"),
        ({"labels": ["liver"]}, "labels an object"),
        ({"folder": 20}, "name and folder must be strings"),
        ({"exceptions": [{"images": "(", "labels": {}}]}, "exceptions must be a list"),
        ({"exceptions": [{"labels": {}}]}, "exceptions must be a list"),
        ({"evaluation_only": "no"}, "evaluation_only must be true or false"),
    ],
)
def test_a_wrong_row_is_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    file = tmp_path / "mine.json"
    content = {"name": "Ours", "folder": "20_Ours", "labels": {"1": "liver"}} | row
    file.write_text(json.dumps({"20": {key: value for key, value in content.items() if value is not None}}))
    with pytest.raises(ValueError, match=message) as caught:
        load_catalogue(file)
    assert f"{file}, data set '20'" in str(caught.value)


def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    with pytest.raises(FileNotFoundError, match="There is no catalogue"):
        load_catalogue(file)
    for text, message in (("{", "is not JSON"), ("[]", "must hold an object")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_catalogue(file)
