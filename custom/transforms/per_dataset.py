"""Augmentation that depends on the data set."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from monai.transforms import Compose


class ApplyByDatasetd(Compose):
    """Apply a transform to the items of some data sets, and another one or none to all others.

    ``datasets`` are keys, as in an item's ``dataset``, or patterns: ``["04", "10_*"]``. An item without ``dataset``
    matches ``"*"`` only.
    """

    def __init__(
        self, datasets: Sequence[str], transform: Callable[[Any], Any], otherwise: Callable[[Any], Any] | None = None
    ) -> None:
        if not isinstance(datasets, list | tuple) or not all(isinstance(pattern, str) for pattern in datasets):
            raise ValueError(
                f"Data sets must be a list of keys or patterns, such as \"['04','10_*']\", not {datasets!r}."
            )
        super().__init__([Compose(transform), Compose(otherwise)])
        self.datasets = tuple(datasets)

    def __call__(self, data: Mapping[Hashable, Any], **options: Any) -> Any:
        name = str(data.get("dataset", ""))
        matches = any(fnmatchcase(name, pattern) for pattern in self.datasets)
        return self.transforms[0 if matches else 1](data, **options)
