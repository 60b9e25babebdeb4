"""Targets with unknown channels, and label values without a class."""

from collections.abc import Hashable
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from custom.anatomy.class_set import ClassSet
from custom.datasets.labels import UNKNOWN, value_table
from custom.transforms.labels import ClearUnlabelledd, LabelsToTargetd, labelled_classes

LABELS: dict[str, str | list[str]] = {"1": "spleen", "2": "liver", "7": ["liver tumor", "liver"]}
SPLEEN, LIVER, LIVER_TUMOR = 1, 6, 27


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
    with pytest.raises(ValueError, match=rf"bad\.nii\.gz: .*declares \(0, 1, 2, 7\); found {value:g}\."):
        LabelsToTargetd("label")({"label": label, "value_table": value_table(LABELS, class_set, source="x")})


def test_values_without_a_class_are_cleared_before_the_crops(class_set: ClassSet) -> None:
    table = value_table({"1": "spleen", "2": [], "27": ["liver"]}, class_set, source="here")
    label = torch.tensor([0.0, 1, 2, 27, 200]).reshape(1, 5, 1, 1)
    result = ClearUnlabelledd("label")({"label": label, "value_table": table})
    assert result["label"].flatten().tolist() == [0, 1, 0, 27, 200]
