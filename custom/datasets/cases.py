"""The labelled cases of a training, whole or in folds, and a short description that tells lists of cases apart."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from custom.anatomy.class_set import ClassSet
from custom.datasets.dataset_json import highest_label_value, labelled_names, read_data_list


@dataclass
class Cases:
    """``<dataset_dir>/dataset.json``, read when a split is needed; with ``folds``, divided for cross-validation.

    The training list is then divided into ``folds`` parts, data set by data set, by the names of the cases alone,
    whatever their order. Part ``fold`` is the "validation" split and the others are the "training" split; the data
    set's own "validation" list is not used.

    Args:
        dataset_dir: folder of the data set.
        class_set: the classes that its labels are read as.
        folds: number of parts; None reads the data set's own splits.
        fold: 0 .. folds - 1.
    """

    dataset_dir: str | Path
    class_set: ClassSet
    _: KW_ONLY
    folds: int | None = None
    fold: int = 0

    def read(self, split: str) -> list[dict[str, Any]]:
        """The cases of a split, see ``read_data_list``.

        Raises:
            ValueError: ``folds`` or ``fold`` out of range; see also ``read_data_list``.
        """
        if self.folds is None or split not in ("training", "validation"):
            return read_data_list(self.dataset_dir, split, self.class_set)
        cases = read_data_list(self.dataset_dir, "training", self.class_set)
        if not 2 <= self.folds <= len(cases) or not 0 <= self.fold < self.folds:
            raise ValueError(
                f"--cases::folds must be 2 to {len(cases)} (the training cases) and --cases::fold 0 to folds - 1, not "
                f"{self.folds} and {self.fold}."
            )
        names = _names(cases)
        order = sorted(range(len(cases)), key=lambda i: (names[i][0], crc32(names[i][1].encode()), names[i]))
        held_out = set(order[self.fold :: self.folds])
        return [case for index, case in enumerate(cases) if (index in held_out) == (split == "validation")]

    @property
    def labelled_classes(self) -> list[str]:
        """Names of the classes that are labelled for training."""
        return labelled_names(self.dataset_dir, self.class_set)

    @property
    def highest_label_value(self) -> int:
        """The highest label value, once sides are split."""
        return highest_label_value(self.dataset_dir, self.class_set)


def describe_cases(cases: Sequence[Mapping[str, Any]]) -> str:
    """The number of cases and a hash of their names and value tables, whatever their folder."""
    digest = hashlib.sha256()
    for (_, name), case in sorted(zip(_names(cases), cases, strict=True), key=lambda pair: pair[0]):
        digest.update(repr(name).encode() + case["value_table"].numpy().tobytes())
    return f"{len(cases)} cases ({digest.hexdigest()[:8]})"


def _names(cases: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Data set of each case, and path of its image relative to the common folder of that data set's images."""
    folders: dict[str, list[Path]] = {}
    for case in cases:
        folders.setdefault(case["dataset"], []).append(Path(case["image"]).parent)
    common = {dataset: os.path.commonpath(paths) for dataset, paths in folders.items()}
    return [(case["dataset"], Path(case["image"]).relative_to(common[case["dataset"]]).as_posix()) for case in cases]
