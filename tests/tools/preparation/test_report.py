"""The report of normal and of suspicious cases."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.anatomy.class_set import ClassSet
from custom.datasets.labels import value_table
from custom.tools.phantoms.scene import LABELS, make_phantom
from custom.tools.preparation.report import quality_check, summarise, write_report


def facts(class_set: ClassSet, swapped: dict[int, int] | None = None) -> dict[str, Any]:
    """The quality check of a phantom with label values swapped."""
    phantom = make_phantom(5, spacing=(8.0, 8.0, 8.0))
    values = np.arange(256, dtype=np.uint8)
    for old, new in (swapped or {}).items():
        values[old] = new
    table = value_table({str(value): list(names) for value, names in LABELS.items()}, class_set, source="this test")
    image = torch.as_tensor(phantom.image, dtype=torch.float32)[None] + 175
    return quality_check(
        {
            "image": MetaTensor(image, affine=phantom.affine),
            "label": MetaTensor(torch.as_tensor(values[phantom.label])[None], affine=phantom.affine),
            "value_table": table,
            "side_notes": ["kidneys: one side only"] if swapped == {} else [],
            "fingerprint": "any",
        },
        class_set,
    )


def test_volumes_of_a_normal_case(class_set: ClassSet) -> None:
    found = facts(class_set)
    label = make_phantom(5, spacing=(8.0, 8.0, 8.0)).label
    assert found["reasons"] == []
    liver = int(np.isin(label, [6, 15, 27]).sum())
    assert found["classes"]["liver"] == {"voxels": liver, "ml": pytest.approx(liver * 0.512)}
    assert found["classes"]["kidney tumor"]["voxels"] == int((label == 26).sum()) > 0


@pytest.mark.parametrize(
    ("swapped", "reason"),
    [
        ({2: 3, 3: 2, 26: 33}, "sides: the right kidney lies left of the left kidney by "),
        ({2: 0, 26: 0}, "one side only: a left kidney and no right kidney"),
        ({1: 6, 6: 1, 15: 0, 27: 0}, "sides: the liver lies "),
        (dict.fromkeys(range(256), 0), "empty: no voxel of a labelled class"),
        ({}, "kidneys: one side only"),
    ],
)
def test_reasons(class_set: ClassSet, swapped: dict[int, int], reason: str) -> None:
    assert any(text.startswith(reason) for text in facts(class_set, swapped)["reasons"])


def case(number: int, **ml: float) -> dict[str, Any]:
    classes = {name.replace("_", " "): {"voxels": int(value * 10), "ml": value} for name, value in ml.items()}
    return {
        **{"dataset": "A", "split": "training", "image": f"{number}.nii", "label": f"{number}_label.nii"},
        **{"classes": classes, "reasons": [], "fingerprint": f"{number}"},
    }


def test_volumes_that_are_implausible_in_their_data_set(class_set: ClassSet, tmp_path: Path) -> None:
    cases = [case(n, spleen=200 + n, liver_tumor=1, colon=0) for n in range(4)]
    cases += [case(4, spleen=1100, liver_tumor=90, colon=0), case(5, spleen=0, liver_tumor=1, colon=0)]
    failed = {**case(6), "error": "6_label.nii is cut short"}
    failed.pop("classes")
    other = {**case(7, spleen=5000), "dataset": "B"}
    report = write_report([*cases, failed, other], class_set, tmp_path)
    assert json.loads((tmp_path / "preparation.json").read_text()) == report
    assert [(odd["image"], odd["reasons"]) for odd in report["suspicious"]] == [
        ("4.nii", ["volume: spleen 1100 mL, the median is 202 mL"]),
        ("5.nii", ["volume: no spleen, which 5 of 6 cases have"]),
    ]
    assert [(bad["label"], bad["reasons"]) for bad in report["failed"]] == [
        ("6_label.nii", ["6_label.nii is cut short"])
    ]
    assert report["datasets"]["A"]["never_seen"] == ["colon"]
    assert report["datasets"]["A"]["cases"] == 7
    spleen = report["datasets"]["A"]["classes"]["spleen"]
    assert spleen | {"labelled": 6, "cases": 5, "median_ml": 202, "least_ml": 200, "most_ml": 1100} == spleen
    with (tmp_path / "preparation.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6 * 3 + 1
    assert rows[0] == {
        **{"dataset": "A", "split": "training", "case": "0_label.nii", "class": "spleen"},
        **{"voxels": "2000", "ml": "200.000"},
    }


def test_nothing_is_suspicious_in_too_few_cases(class_set: ClassSet) -> None:
    assert summarise([case(0, spleen=100), case(1, spleen=0)], class_set)["suspicious"] == []


def test_an_image_in_two_splits_is_reported(class_set: ClassSet) -> None:
    """Also under another name; two labels of one image in one split are legitimate."""
    cases = [case(n, spleen=200) for n in range(3)]
    cases[2] |= {"split": "test", "fingerprint": "1"}
    assert {item["image"]: item["reasons"] for item in summarise(cases, class_set)["suspicious"]} == {
        "1.nii": ["duplicate: the split test has the same image, 2.nii"],
        "2.nii": ["duplicate: the split training has the same image, 1.nii"],
    }
    cases[2] |= {"split": "training"}
    report = summarise(cases, class_set)
    assert report["suspicious"] == []
    assert report["duplicates"] == [["1.nii", "2.nii"]]
