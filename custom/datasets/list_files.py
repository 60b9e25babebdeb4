"""One ``dataset.json`` from the list files of several data sets; all errors are reported together."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from custom.anatomy.class_set import ClassSet
from custom.datasets.catalogue import DataSet
from custom.datasets.dataset_json import SPLITS, UNLABELLED
from custom.datasets.labels import value_table
from custom.utils.files import atomic_write

#: Ending of a list file's name -> split of dataset.json.
ENDINGS = {"train": "training", "val": "validation", "test": "test", "test2": UNLABELLED}


def read_lists(
    names: Sequence[str],
    *,
    lists_dir: str | Path,
    data_root: str | Path,
    catalogue: Mapping[str, DataSet],
    class_set: ClassSet,
) -> dict[str, Any]:
    """Content of a dataset.json from list files, with absolute paths and the key of each case's data set.

    The files of a name are those that exist of ``<name>_train.txt``, ``_val``, ``_test`` and ``_test2``. A line is an
    image, a tab and its label; in ``_test2`` an image alone. Paths are relative to ``data_root``; their first folders
    determine the data set in the catalogue. If label values differ in meaning, every case has its own ``labels``.

    Args:
        names: of the lists; several are merged.
        lists_dir: folder of the list files.
        data_root: folder of the data sets' folders.
        catalogue: data sets by key (``load_catalogue``).
        class_set: has the classes that the catalogue names.

    Raises:
        FileNotFoundError: a folder that does not exist.
        ValueError: all errors in all files, a line each (``file:line: error``): a name without lists; text that is not
            UTF-8; a list without cases, a blank line, too few or too many columns; a path that is absolute, leaves the
            root, is no NIfTI file or does not exist; a folder of no data set of the catalogue, or of several; a label
            of another data set than its image; a file listed twice; a data set for evaluation only in a training list;
            labels of the catalogue that the class set does not know.
    """
    lists_dir, data_root = (Path(folder).expanduser().resolve() for folder in (lists_dir, data_root))
    for setting, folder in (("lists_dir", lists_dir), ("data_root", data_root)):
        if not folder.is_dir():
            raise FileNotFoundError(f"--{setting} must be a folder that exists, not {folder}.")
    reader = _Reader(data_root, catalogue, class_set)
    for name in names:
        files = {lists_dir / f"{name}_{ending}.txt": split for ending, split in ENDINGS.items()}
        if not any(file.is_file() for file in files):
            reader.errors.append(f"{lists_dir}: must hold one of {', '.join(file.name for file in files)}.")
        for file, split in files.items():
            if file.is_file():
                reader.read(file, split)
    if reader.errors:
        count = f"{len(reader.errors)} error{'s' * (len(reader.errors) > 1)}"
        raise ValueError("\n".join([*reader.errors, f"{count} in the lists of {', '.join(names)}."]))
    content = {"name": "+".join(names), "lists": list(names), **reader.splits}
    labels = [case["labels"] for split in SPLITS for case in reader.splits.get(split, [])]
    if labels and all(own == labels[0] for own in labels):
        content["labels"] = labels[0]
        for split in SPLITS:
            for case in reader.splits.get(split, []):
                del case["labels"]
    return content


def made_from_lists(dataset_dir: str | Path) -> bool:
    """Whether ``<dataset_dir>/dataset.json`` comes from ``read_lists``."""
    try:
        content = json.loads((Path(dataset_dir) / "dataset.json").read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and "lists" in content


def write_description(content: Mapping[str, Any], dataset_dir: str | Path) -> Path:
    """Write ``<dataset_dir>/dataset.json`` atomically and return its path."""
    file = Path(dataset_dir) / "dataset.json"
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


class _Line(NamedTuple):
    file: Path
    number: int
    split: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


class _Reader:
    """Cases by split, and errors, of the lists read so far."""

    def __init__(self, data_root: Path, catalogue: Mapping[str, DataSet], class_set: ClassSet) -> None:
        self.data_root = data_root
        self.catalogue = catalogue
        self.class_set = class_set
        self.splits: dict[str, list[dict[str, Any]]] = {}
        self.errors: list[str] = []
        self._lines: dict[Path, _Line] = {}
        self._checked_labels: list[Mapping[str, Any]] = []

    def read(self, file: Path, split: str) -> None:
        data = file.read_bytes()
        try:
            text = data.decode("utf-8-sig").rstrip()
        except UnicodeDecodeError as error:
            line = _Line(file, data.count(b"\n", 0, error.start) + 1, split)
            self._error(line, f"a list must be text in UTF-8: {error.reason}. Save it as UTF-8.")
            return
        for number, row in enumerate(text.split("\n"), start=1):
            self._add(_Line(file, number, split), [column.strip() for column in row.split("\t")])

    def _error(self, line: _Line, message: str) -> None:
        self.errors.append(f"{line}: {message}")

    def _add(self, line: _Line, columns: list[str]) -> None:
        complete = len(columns) == len(set(columns)) == (1 if line.split == UNLABELLED else 2)
        if not complete or not all(columns):
            wanted = "one image" if line.split == UNLABELLED else "an image, a tab and its label"
            self._error(line, f"a line must be {wanted}, not {'<tab>'.join(columns)!r:.200}.")
            return
        paths = [self._is_path(line, column) for column in columns]
        if not all(paths):
            return
        new = [self._is_new_file(line, column) for column in columns]
        key = self._data_set(line, columns[0])
        if not all(new) or key is None:
            return
        row = self.catalogue[key]
        if not all(map(row.holds, columns)):
            self._error(line, f"an image of data set {key} must have a label of that data set, not {columns[1]}.")
        if row.evaluation_only and line.split == SPLITS[0]:
            self._error(line, f"data set {key} is for evaluation only: move the line to a test list.")
        files = dict(zip(("image", "label"), (str(self.data_root / column) for column in columns), strict=False))
        labels = {} if line.split == UNLABELLED else {"labels": row.labels_of(columns[0])}
        self.splits.setdefault(line.split, []).append({**files, **labels, "dataset": key})
        if labels:
            self._check_labels(key, labels["labels"])

    def _is_path(self, line: _Line, path: str) -> bool:
        pure = PurePosixPath(path)
        if not path.isprintable():
            self._error(line, f"a path must not have invisible characters: {path!a}.")
        elif pure.is_absolute() or ".." in pure.parts or "\\" in path:
            self._error(line, f"a path must be relative to the data root, stay in it and use /, not be {path}.")
        elif not path.lower().endswith((".nii", ".nii.gz")):
            self._error(line, f"a path must be of a NIfTI file (.nii or .nii.gz), not {path}.")
        else:
            return True
        return False

    def _is_new_file(self, line: _Line, path: str) -> bool:
        file = self.data_root / path
        if not file.is_file():
            self._error(line, f"{file} does not exist.")
        elif (first := self._lines.setdefault(file.resolve(), line)) is not line:
            self._error(line, f"a file may be listed once, in one split; {path} is in {first.split} already ({first}).")
        else:
            return True
        return False

    def _data_set(self, line: _Line, path: str) -> str | None:
        """Key of the data set of a path; None, and an error, if there is none or several."""
        keys = [key for key, row in self.catalogue.items() if row.holds(path)]
        if len(keys) == 1:
            return keys[0]
        found = f"data sets {' and '.join(keys)} have" if keys else "no data set of the catalogue has"
        self._error(line, f"{found} the folder of {path}: correct the path, or give a catalogue of your own.")
        return None

    def _check_labels(self, key: str, labels: Mapping[str, Any]) -> None:
        if labels not in self._checked_labels:
            self._checked_labels.append(labels)
            try:
                value_table(labels, self.class_set, source=f"the catalogue, data set {key!r}")
            except ValueError as error:
                self.errors.append(str(error))
