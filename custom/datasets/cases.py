"""The labelled cases of a data set, as a training config reads them."""

from pathlib import Path
from typing import Any

from custom.anatomy.class_set import ClassSet
from custom.datasets.dataset_json import highest_label_value, labelled_names
from custom.datasets.folds import read_fold


class Cases:
    """``<dataset_dir>/dataset.json``, read when a split is needed.

    Args:
        dataset_dir: folder of the data set.
        class_set: the classes that its labels are read as.
        folds: see ``read_fold``.
        fold: likewise.
    """

    def __init__(
        self, dataset_dir: str | Path, class_set: ClassSet, *, folds: int | None = None, fold: int = 0
    ) -> None:
        self.dataset_dir = dataset_dir
        self.class_set = class_set
        self.folds = folds
        self.fold = fold

    def read(self, split: str) -> list[dict[str, Any]]:
        """The cases of a split, see ``read_fold``."""
        return read_fold(self.dataset_dir, split, self.class_set, folds=self.folds, fold=self.fold)

    @property
    def labelled_classes(self) -> list[str]:
        """Names of the classes that are labelled for training."""
        return labelled_names(self.dataset_dir, self.class_set)

    @property
    def highest_label_value(self) -> int:
        """The highest label value, once sides are split."""
        return highest_label_value(self.dataset_dir, self.class_set)
