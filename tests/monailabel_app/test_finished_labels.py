"""Finished labels of a real datastore as a data set: what counts as labelled, what is left out, and why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
from lib.trainers.finished_labels import write_dataset

from custom.anatomy.class_set import ClassSet
from custom.datasets.dataset_json import Cases, read_data_list
from tests.helpers.studies import SLICER, drawn, finish, finish_as_slicer, phantom_datastore

if TYPE_CHECKING:
    from lib.trainers.finished_labels import FinishedLabels

SEEDS = range(4)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    phantom_datastore(folder, images=SEEDS)
    return folder


@pytest.fixture
def studies(images: Path, tmp_path: Path) -> Path:
    """A datastore's folder whose images are links."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for image in images.glob("ct*.nii.gz"):
        (folder / image.name).symlink_to(image)
    return folder


def labels_of(folder: Path, result: FinishedLabels) -> dict[str, dict[str, list[str]]]:
    content = json.loads((folder / "dataset.json").read_text())
    splits = {"training": result.training, "validation": result.validation}
    return {key: case["labels"] for name, ids in splits.items() for key, case in zip(ids, content[name], strict=True)}


def one_case(studies: Path, out: Path, class_set: ClassSet, label: nib.Nifti1Image, info: dict[str, Any]) -> Any:
    """Write a label of ct0 beside two good ones; return its labels in dataset.json, or why it was left out."""
    datastore = phantom_datastore(studies)
    for seed in (1, 2):
        finish_as_slicer(datastore, seed)
    finish(datastore, "ct0", label, info)
    result = write_dataset(datastore, out, class_set, val_split=0.2)
    assert {*result.training, *result.validation} >= {"ct1", "ct2"}
    return result.left_out.get("ct0") or labels_of(out, result)["ct0"]


def test_finished_labels_become_a_data_set(studies: Path, class_set: ClassSet, tmp_path: Path) -> None:
    datastore = phantom_datastore(studies)
    for seed in (0, 1, 2):
        finish_as_slicer(datastore, seed, liver=seed != 1)
    out = tmp_path / "out"
    result = write_dataset(datastore, out, class_set, val_split=0.2)
    assert sorted(result.training + result.validation) == ["ct0", "ct1", "ct2"]
    assert result.training and result.validation and not result.left_out
    both = {"1": ["spleen"], "2": ["liver"]}
    assert labels_of(out, result) == {"ct0": both, "ct1": {"1": ["spleen"]}, "ct2": both}
    cases = [case for split in ("training", "validation") for case in read_data_list(out, split, class_set)]
    assert {Path(case["image"]).name for case in cases} == {"ct0.nii.gz", "ct1.nii.gz", "ct2.nii.gz"}
    assert {Path(case["label"]).parent for case in cases} == {out / "labels"}
    assert Cases(out, class_set).labelled_classes == ["spleen", "liver"]


def test_a_case_stays_in_its_split_as_others_are_finished(studies: Path, class_set: ClassSet, tmp_path: Path) -> None:
    datastore = phantom_datastore(studies)
    sides = []
    for seed in SEEDS:
        finish_as_slicer(datastore, seed)
        if seed >= 2:
            sides.append(write_dataset(datastore, tmp_path / str(seed), class_set, val_split=0.5))
    assert all({*sides[0].training} <= {*later.training} for later in sides)
    assert all({*sides[0].validation} <= {*later.validation} for later in sides)
    (low, high) = (write_dataset(datastore, tmp_path / "x", class_set, val_split=fraction) for fraction in (0.01, 0.99))
    assert (len(low.validation), len(high.training)) == (1, 1)


@pytest.mark.parametrize(
    ("values", "info", "expected"),
    [
        ({6: 1}, {"label_info": [{"name": "Leber", "id": 1}]}, {"1": ["liver"]}),
        ({2: 7}, {"label_info": [{"name": "Right_Kidney", "idx": 7}]}, {"7": ["right kidney"]}),
        ({6: 5, 1: 5}, {"params": {"label_names": {"liver": 5, "spleen": 3}}}, {"5": ["liver"]}),
        ({6: 1, 27: 2}, ["liver", "liver tumour"], {"1": ["liver"], "2": ["liver", "liver tumor"]}),
        ({27: 2}, ["liver", "liver tumor"], {"2": ["liver tumor"]}),
        ({2: 1, 3: 2, 6: 3}, ["right kidney", "kidney cyst", "liver"], {"1": [], "2": ["kidney cyst"], "3": ["liver"]}),
        ({6: 1, 1: 2, 2: 3}, ["liver", "hepatic vessel", "hepatic vessel tumor"],
         {"1": ["liver"], "2": ["liver", "hepatic vessel"], "3": ["liver", "hepatic vessel", "hepatic vessel tumor"]}),
        ({6: 1}, ["liver", "my lesion"], {"1": ["liver"]}),
    ],
)  # fmt: skip
def test_names_become_classes(
    studies: Path, class_set: ClassSet, tmp_path: Path, values: dict[int, int], info: Any, expected: dict[str, Any]
) -> None:
    """In any spelling; a tumour is part of its organ only where the organ was drawn."""
    if isinstance(info, list):
        info = {"label_info": [{"name": name, "idx": value} for value, name in enumerate(info, start=1)]}
    assert one_case(studies, tmp_path / "out", class_set, drawn(0, values), info) == expected


@pytest.mark.parametrize(
    ("values", "info", "reason"),
    [
        ({6: 1}, {}, r"save it with label_info, \[\{"),
        ({6: 1}, {"label_info": "liver"}, "does not say what its values mean"),
        ({6: 1}, {"label_info": [{"name": "my lesion", "idx": 1}]}, "known name, not 'my lesion'"),
        ({6: 1}, {"label_info": [{"name": "kidneys", "idx": 1}]}, "known name, not 'kidneys'. Nearest"),
        ({6: 1, 1: 3}, {"label_info": SLICER}, "value 3 has 0"),
        ({6: 1}, {"label_info": [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 1}]}, "value 1 has 2"),
        ({6: 1}, {"label_info": [{"name": 5, "idx": 1}]}, "one name"),
        ({}, {"label_info": SLICER}, "Nothing is drawn"),
        # Slicer omitted "background", so that liver moved to 1 and spleen, numbered 3, to 2
        ({6: 1, 1: 2}, {"label_info": [{"name": "liver", "idx": 2}, {"name": "spleen", "idx": 3}]}, "one name"),
    ],
)
def test_ambiguous_labels_are_left_out_with_a_reason(
    studies: Path, class_set: ClassSet, tmp_path: Path, values: dict[int, int], info: Any, reason: str
) -> None:
    found = one_case(studies, tmp_path / "out", class_set, drawn(0, values), info)
    assert isinstance(found, str) and re.search(reason, found), found
    assert str(tmp_path) not in found


def test_values_out_of_order_are_accepted_where_slicer_cannot_have_made_them(
    studies: Path, class_set: ClassSet, tmp_path: Path
) -> None:
    """Entries numbered as the classes are, of which one has the value 6: two segments of Slicer would be 1 and 2."""
    info = {"label_info": [{"name": "right kidney", "idx": 2}, {"name": "liver", "idx": 6}]}
    found = one_case(studies, tmp_path / "out", class_set, drawn(0, {2: 2, 6: 6}), info)
    assert found == {"2": ["right kidney"], "6": ["liver"]}


def test_invalid_label_files_are_left_out(studies: Path, class_set: ClassSet, tmp_path: Path) -> None:
    other_grid, fractions = drawn(1, {6: 1}), drawn(0, {6: 1})
    other_grid = nib.Nifti1Image(np.asarray(other_grid.dataobj)[1:], other_grid.affine)
    fractions = nib.Nifti1Image(np.asarray(fractions.dataobj) / np.float32(2), fractions.affine)
    info = {"label_info": [{"name": "liver", "idx": 1}]}
    reason = one_case(studies, tmp_path / "a", class_set, other_grid, info)
    assert reason.startswith("Image and label must lie on one grid: the image has shape")
    reason = one_case(studies, tmp_path / "b", class_set, fractions, info)
    assert reason == "Label values must be integers of 0..255."


def test_fewer_than_two_labels_are_refused_without_naming_images(
    studies: Path, class_set: ClassSet, tmp_path: Path
) -> None:
    datastore = phantom_datastore(studies)
    with pytest.raises(ValueError, match=r"at least two finished labels.*; 0 can be used\. Finish more images"):
        write_dataset(datastore, tmp_path / "out", class_set, val_split=0.2)
    finish_as_slicer(datastore, 0)
    for seed in (1, 2):
        finish(datastore, f"ct{seed}", drawn(seed, {6: 1}), {})
    with pytest.raises(ValueError, match=r"1 can be used, 2 not: It does not say") as caught:
        write_dataset(datastore, tmp_path / "out", class_set, val_split=0.2)
    assert "ct1" not in str(caught.value)
