"""Cases of a run: folds of cross-validation, and a short description that tells lists of cases apart."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from custom.anatomy.class_set import ClassSet
from custom.datasets.dataset_json import read_data_list


def read_fold(
    dataset_dir: str | Path, split: str, class_set: ClassSet, *, folds: int | None = None, fold: int = 0
) -> list[dict[str, Any]]:
    """``read_data_list``, or with ``folds`` the training or validation cases of one fold of cross-validation.

    The training list is divided into ``folds`` parts, data set by data set, by the names of the cases alone, whatever
    their order. Part ``fold`` is the "validation" split and the others are the "training" split; the data set's own
    "validation" list is not used.

    Args:
        dataset_dir, split, class_set: see ``read_data_list``.
        folds: number of parts; None reads the data set's own splits.
        fold: 0 .. folds - 1.

    Raises:
        ValueError: ``folds`` or ``fold`` out of range; see also ``read_data_list``.
    """
    if folds is None or split not in ("training", "validation"):
        return read_data_list(dataset_dir, split, class_set)
    cases = read_data_list(dataset_dir, "training", class_set)
    if not 2 <= folds <= len(cases) or not 0 <= fold < folds:
        raise ValueError(
            f"--cases::folds must be 2 to {len(cases)} (the training cases) and --cases::fold 0 to folds - 1, not "
            f"{folds} and {fold}."
        )
    names = case_names(cases)
    order = sorted(range(len(cases)), key=lambda i: (names[i][0], crc32(names[i][1].encode()), names[i]))
    held_out = set(order[fold::folds])
    return [case for index, case in enumerate(cases) if (index in held_out) == (split == "validation")]


def case_names(cases: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Data set of each case, and path of its image relative to the common folder of that data set's images."""
    datasets = [str(case.get("dataset", "")) for case in cases]
    folders: dict[str, list[str]] = {}
    for dataset, case in zip(datasets, cases, strict=True):
        folders.setdefault(dataset, []).append(str(Path(case["image"]).parent))
    common = {dataset: os.path.commonpath(paths) for dataset, paths in folders.items()}
    return [
        (dataset, Path(os.path.relpath(case["image"], common[dataset])).as_posix())
        for dataset, case in zip(datasets, cases, strict=True)
    ]


def describe_cases(cases: Sequence[Mapping[str, Any]]) -> str:
    """The number of cases and a hash of their names and value tables, whatever their folder."""
    digest = hashlib.sha256()
    for (_, name), case in sorted(zip(case_names(cases), cases, strict=True), key=lambda pair: pair[0]):
        digest.update(repr(name).encode() + case["value_table"].numpy().tobytes())
    return f"{len(cases)} cases ({digest.hexdigest()[:8]})"
