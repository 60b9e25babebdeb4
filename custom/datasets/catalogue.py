"""Public data sets that list files may use: their folders below a data root, and what their label values mean."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from custom.anatomy.loading import check

#: The data sets of the references.
CATALOGUE = Path(__file__).with_name("catalogue.json")


@dataclass(frozen=True)
class DataSet:
    """One row of a catalogue.

    - ``folder`` is below a data root, with ``*`` for any part of a name: "10_*/Task03_*";
    - ``labels`` are as in dataset.json; cases with others are ``exceptions``, {"images": regular expression, "labels":
      ...}, of which the first that matches an image's file name applies;
    - one that is ``evaluation_only`` may not be in a training list.
    """

    name: str
    folder: str
    labels: Mapping[str, Any]
    exceptions: tuple[Mapping[str, Any], ...] = ()
    evaluation_only: bool = False

    def holds(self, path: str) -> bool:
        """Whether a path relative to the data root is in this data set's folder."""
        wanted, parts = PurePosixPath(self.folder).parts, PurePosixPath(path).parts
        return len(parts) > len(wanted) and all(map(fnmatchcase, parts, wanted))

    def labels_of(self, image: str) -> Mapping[str, Any]:
        """Labels of the image with this path."""
        own = (case["labels"] for case in self.exceptions if re.search(case["images"], PurePosixPath(image).name))
        return next(own, self.labels)


def load_catalogue(more: str | Path | None = None) -> dict[str, DataSet]:
    """Data sets by key: those of the references, and those of another file in that form, which may replace some.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another form. Names of classes are checked when a list uses the data set.
    """
    catalogue: dict[str, DataSet] = {}
    for file in [CATALOGUE] if more is None else [CATALOGUE, Path(more)]:
        if not file.is_file():
            raise FileNotFoundError(f"There is no catalogue {file}: name a JSON file in the form of {CATALOGUE}.")
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not JSON: {error}") from error
        check(isinstance(rows, dict), str(file), "it must hold an object {key: {name, folder, labels}}", rows)
        catalogue |= {key: _data_set(row, f"{file}, data set {key!r}") for key, row in rows.items()}
    return catalogue


def _data_set(row: Any, where: str) -> DataSet:
    keys = {"name", "folder", "labels"}
    complete = isinstance(row, dict) and keys <= row.keys() <= keys | {"exceptions", "evaluation_only"}
    check(complete, where, "must have name, folder and labels, may have exceptions and evaluation_only", row)
    named = all(isinstance(row[key], str) and row[key] for key in ("name", "folder"))
    rule = "name and folder must be strings, and labels an object {raw value: class}"
    check(named and isinstance(row["labels"], dict), where, rule, row)
    exceptions, evaluation_only = row.get("exceptions", []), row.get("evaluation_only", False)
    rule = 'exceptions must be a list of {"images": regular expression, "labels": {...}}'
    check(isinstance(exceptions, list) and all(map(_is_exception, exceptions)), where, rule, exceptions)
    check(isinstance(evaluation_only, bool), where, "evaluation_only must be true or false", evaluation_only)
    return DataSet(**row | {"exceptions": tuple(exceptions)})


def _is_exception(case: Any) -> bool:
    try:
        re.compile(case["images"])
    except (KeyError, TypeError, re.error):
        return False
    return case.keys() == {"images", "labels"} and isinstance(case["labels"], dict)
