"""Augmentation that depends on the data set."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from monai.transforms import Compose, Randomizable, Transform
from monai.utils import MAX_SEED


class ApplyByDatasetd(Randomizable, Transform):
    """Apply a transform to the items of some data sets, and another one or none to all others.

    ``datasets`` are keys, as in an item's ``dataset``, or patterns: ``["04", "10_*"]``. An item without ``dataset``
    matches ``"*"`` only. (No subclass of Compose, to which Compose would hand a list of crops as it is.)
    """

    def __init__(
        self, datasets: Sequence[str], transform: Callable[[Any], Any], otherwise: Callable[[Any], Any] | None = None
    ) -> None:
        if not isinstance(datasets, list | tuple) or not all(isinstance(pattern, str) for pattern in datasets):
            raise ValueError(
                f"Data sets must be a list of keys or patterns, such as \"['04','10_*']\", not {datasets!r}."
            )
        self.datasets = tuple(datasets)
        self.transforms = Compose(transform), Compose(otherwise)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> "ApplyByDatasetd":
        super().set_random_state(seed, state)
        for transform in self.transforms:
            transform.set_random_state(seed=self.R.randint(MAX_SEED, dtype="uint32"))
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> Any:
        name = str(data.get("dataset", ""))
        matches = any(fnmatchcase(name, pattern) for pattern in self.datasets)
        return self.transforms[0 if matches else 1](data)
