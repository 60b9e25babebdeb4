"""Meaning of the raw values of a data set's labels: classes, or a right and a left class to be separated."""

from collections.abc import Mapping
from typing import Any

import torch

from custom.anatomy.class_set import ClassSet, fold
from custom.anatomy.loading import check

UNKNOWN = -1  #: target of a channel whose class a data set does not label (255 or -1 in the references)
UNNAMED = 2  #: target of a voxel of a class that the prompt does not name: the prediction should be 0
UNDECLARED = -2  #: entry of ``value_table`` for a raw value that the data set does not declare

#: For each group with two sides: raw value -> (value of its right part, value of its left part).
Sides = dict[str, dict[int, tuple[int, int]]]


def value_table(labels: Mapping[str, str | list[str]], class_set: ClassSet, *, source: str) -> torch.Tensor:
    """Lookup table (256, K) int8 from label values, with sides split (see ``side_values``), to targets.

    Row v is 1 for the classes of value v, 0 for the other labelled classes, UNKNOWN for classes that the data set does
    not label, and UNDECLARED throughout for a value that ``labels`` does not have. Value 0 is background, and so is a
    value without classes (an empty list). A name in ``labels`` may be a group of a right and a left class. Errors begin
    with the ``source``.

    Raises:
        ValueError: no labels, an unknown class, a value that is not an integer of 0..255, a group other than a right
            and a left class, a value of two groups, or too few free values for the left parts.
    """
    return _read(labels, class_set, source)[0]


def side_values(labels: Mapping[str, str | list[str]], class_set: ClassSet, *, source: str) -> Sides:
    """Values of the right and left parts of the raw values of a group; arguments as for ``value_table``.

    The right part keeps the raw value; the left part gets one that ``labels`` leaves free, those above all others
    first: {"kidneys": {1: (1, 3), 2: (2, 4)}}.
    """
    return _read(labels, class_set, source)[1]


def _read(labels: Any, class_set: ClassSet, source: str) -> tuple[torch.Tensor, Sides]:
    declared = _declared(labels, source)
    meant = {value: _meaning(names, class_set, f"{source}: label value {value}") for value, names in declared.items()}
    highest = max(meant, default=0)
    free = [*range(highest + 1, 256), *(value for value in range(highest, 0, -1) if value not in meant)]
    grouped = sum(1 for _, group, _ in meant.values() if group)
    if grouped > len(free):
        raise ValueError(
            f'{source}: "labels" must leave a free value of 1..255 for each value that is split into right and left; '
            f"{grouped} are split and {len(free)} are free. Merge or leave out values."
        )
    members: dict[int, list[int]] = {}
    sides: Sides = {}
    for value, (classes, group, pair) in sorted(meant.items()):
        members[value] = classes
        if group:
            right, left = pair
            sides.setdefault(group, {})[value] = (value, free[0])
            members |= {value: [*classes, right], free.pop(0): [*classes, left]}
    if not any(members.values()):
        raise ValueError(
            f'{source}: "labels" must map raw values to classes, e.g. {{"1": "spleen", "27": ["liver tumor", '
            f'"liver"]}}; received {dict(labels)}.'
        )
    background = torch.full((len(class_set),), UNKNOWN, dtype=torch.int8)
    background[[index - 1 for classes in members.values() for index in classes]] = 0
    table = torch.full((256, len(class_set)), UNDECLARED, dtype=torch.int8)
    for value, classes in {0: [], **members}.items():
        table[value] = background
        table[value, [index - 1 for index in classes]] = 1
    return table, sides


def _declared(labels: Any, source: str) -> dict[int, list[str]]:
    """Names by raw value of 1..255."""
    check(isinstance(labels, Mapping), source, '"labels" must map raw values to class names', labels)
    declared: dict[int, list[str]] = {}
    for raw, names in labels.items():
        check(str(raw).isdecimal() and int(raw) < 256, source, "label values must be integers of 0..255", raw)
        names = [names] if isinstance(names, str) else names
        are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
        check(are_names, source, f"label value {raw} must mean a class name or a list of them", names)
        if int(raw) in declared:
            raise ValueError(f'{source}: "labels" must name a value once; {int(raw)} is there twice.')
        declared[int(raw)] = names
    declared.pop(0, None)
    return declared


def _meaning(names: list[str], class_set: ClassSet, where: str) -> tuple[list[int], str | None, tuple[int, ...]]:
    """Classes (1-based) of a value, and its group of two sides, if any, with the right and the left class of this."""
    classes = []
    groups = {}
    for name in names:
        meant = class_set.phrases.get(fold(name), ())
        if len(meant) > 1:
            groups[next(phrase for phrase, members in class_set.groups.items() if members == meant)] = meant
            continue
        try:
            classes.append(class_set.index(name))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if not groups:
        return classes, None, ()
    if len(groups) > 1:
        raise ValueError(f"{where} may be in one group, not in {' and '.join(sorted(groups))}.")
    [(group, members)] = groups.items()
    member_names = ", ".join(class_set[index].name for index in members)
    sides = {class_set[index].side: index for index in members}
    if sides.keys() != {"right", "left"} or len(members) != 2:
        raise ValueError(
            f"{where}: a group must be exactly a right and a left class, which can be separated, and {group!r} means "
            f"{member_names}. Name one class, or [] to ignore the value."
        )
    if set(members) & set(classes):
        raise ValueError(f"{where} names {group!r} and one of {member_names}: keep one of both.")
    return classes, group, (sides["right"], sides["left"])
