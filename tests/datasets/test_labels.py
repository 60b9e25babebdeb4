"""Value tables, and the values that sides are split into."""

from typing import Any

import pytest
import torch

from custom.anatomy.class_set import ClassSet
from custom.datasets.labels import UNDECLARED, UNKNOWN, side_values, value_table

LABELS: dict[str, str | list[str]] = {
    "0": "background",
    "1": "spleen",
    "3": "liver",
    "7": ["liver tumor", "liver"],
    "9": [],
}
KITS: dict[str, str | list[str]] = {"1": "kidneys", "2": ["kidney tumor", "Kidney"], "3": ["kidneys", "kidney cyst"]}


@pytest.mark.parametrize(
    ("value", "members"), [(0, ()), (1, ("spleen",)), (3, ("liver",)), (7, ("liver", "liver tumor")), (9, ())]
)
def test_a_row_has_the_classes_of_a_value(class_set: ClassSet, value: int, members: tuple[str, ...]) -> None:
    row = value_table(LABELS, class_set, source="here")[value]
    labelled = {"spleen", "liver", "liver tumor"}
    expected = [int(name in members) if name in labelled else UNKNOWN for name in class_set.names]
    assert row.dtype == torch.int8
    assert row.tolist() == expected


def test_values_that_are_not_declared_are_marked_throughout(class_set: ClassSet) -> None:
    table = value_table(LABELS, class_set, source="here")
    assert table.shape == (256, len(class_set))
    undeclared = (table == UNDECLARED).all(1)
    assert (~undeclared).nonzero().flatten().tolist() == [0, 1, 3, 7, 9]
    assert not (table[~undeclared] == UNDECLARED).any()


def test_synonyms_name_classes(class_set: ClassSet) -> None:
    table = value_table({"1": "Hepatic Tumour", "2": "IVC"}, class_set, source="here")
    expected = value_table({"1": "liver tumor", "2": "postcava"}, class_set, source="here")
    torch.testing.assert_close(table, expected)


def meant(table: torch.Tensor, value: int, class_set: ClassSet) -> set[str]:
    return {name for name, member in zip(class_set.names, table[value].tolist(), strict=True) if member == 1}


def test_a_group_of_two_sides_is_split(class_set: ClassSet) -> None:
    """KiTS: tumour, cyst and the kidney around them, each right or left; spellings of a group are one group."""
    assert side_values(KITS, class_set, source="here") == {"kidneys": {1: (1, 4), 2: (2, 5), 3: (3, 6)}}
    assert side_values(dict(reversed(KITS.items())), class_set, source="here") == side_values(
        KITS, class_set, source=""
    )
    table = value_table(KITS, class_set, source="here")
    assert meant(table, 1, class_set) == {"right kidney"}
    assert meant(table, 4, class_set) == {"left kidney"}
    assert meant(table, 2, class_set) == {"right kidney", "kidney tumor"}
    assert meant(table, 5, class_set) == {"left kidney", "kidney tumor"}
    assert meant(table, 6, class_set) == {"left kidney", "kidney cyst"}
    assert {class_set[i + 1].name for i in (table[0] == 0).nonzero().flatten().tolist()} == {
        *("right kidney", "left kidney", "kidney tumor", "kidney cyst")
    }


def test_several_groups_share_the_free_values(class_set: ClassSet) -> None:
    """The right class comes first whatever the order in the group; values that are declared are not given away."""
    labels: dict[str, str | list[str]] = {"1": "liver", "3": "lungs", "4": "femoral heads", "255": "kidneys", "5": []}
    sides = side_values(labels, class_set, source="here")
    assert sides == {"lungs": {3: (3, 254)}, "femoral heads": {4: (4, 253)}, "kidneys": {255: (255, 252)}}
    table = value_table(labels, class_set, source="here")
    assert meant(table, 4, class_set) == {"right head of femur"}
    assert meant(table, 252, class_set) == {"left kidney"}
    assert side_values(LABELS, class_set, source="here") == {}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"1": "large intestine"}, "value 1: a group must be exactly a right and a left class.* means colon, rectum"),
        ({"1": "all organs"}, "value 1: a group must be exactly a right and a left class"),
        ({"1": ["kidneys", "lungs"]}, "value 1 may be in one group, not in kidneys and lungs"),
        ({"1": ["kidneys", "left kidney"]}, "value 1 names 'kidneys' and one of right kidney, left kidney"),
        ({"1": "spleen", "01": "liver"}, "must name a value once; 1 is there twice"),
        ({str(value): "kidneys" for value in range(1, 129)}, "128 are split and 127 are free"),
    ],
)
def test_what_cannot_be_split_is_refused(class_set: ClassSet, labels: Any, message: str) -> None:
    for read in (value_table, side_values):
        with pytest.raises(ValueError, match=f"^here: .*{message}"):
            read(labels, class_set, source="here")
