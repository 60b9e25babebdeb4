"""List files of several data sets -> the content of one ``dataset.json``; every fault is found before any work."""

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
    """Content of the dataset.json that list files describe, with absolute paths and each case's ``dataset`` key.

    The files of a name are ``<name>_train.txt``, ``_val``, ``_test`` and ``_test2``, those that exist. A line is an
    image, a tab and its label; in ``_test2`` an image alone. Paths are relative to ``data_root``; their first folders
    say of which data set of the catalogue a case is. Where label values differ in meaning, every case has its
    ``labels``.

    Args:
        names: one list of each split, or several, which are joined.
        lists_dir: folder of the list files.
        data_root: folder of the data sets' folders.
        catalogue: data sets by key (``load_catalogue``).
        class_set: has the classes that the catalogue names.

    Raises:
        FileNotFoundError: a folder that does not exist.
        ValueError: all that is wrong, in all files, a line each (``file:line: what``): a name without lists; text that
            is not UTF-8; a list without cases, a blank line, too few or too many columns; a path that is absolute,
            leaves the root, is no NIfTI file or does not exist; a folder that no data set of the catalogue has, or
            several; a label elsewhere than its image; a file named twice, in one split or in two; a data
            set for evaluation only in a training list; labels of the catalogue that the class set does not know.
    """
    lists_dir, data_root = (Path(folder).expanduser().resolve() for folder in (lists_dir, data_root))
    for setting, folder in (("lists_dir", lists_dir), ("data_root", data_root)):
        if not folder.is_dir():
            raise FileNotFoundError(f"--{setting} must be a folder that exists, not {folder}.")
    reader = _Reader(data_root, catalogue, class_set)
    for name in names:
        files = {lists_dir / f"{name}_{ending}.txt": split for ending, split in ENDINGS.items()}
        if not any(file.is_file() for file in files):
            reader.faults.append(f"{lists_dir}: must hold one of {', '.join(file.name for file in files)}.")
        for file, split in files.items():
            if file.is_file():
                reader.read(file, split)
    if reader.faults:
        count = "1 fault" if len(reader.faults) == 1 else f"{len(reader.faults)} faults"
        raise ValueError("\n".join([*reader.faults, f"{count} in the lists of {', '.join(names)}."]))
    content = {"name": "+".join(names), "lists": list(names), **reader.splits}
    labels = [case["labels"] for split in SPLITS for case in reader.splits.get(split, [])]
    if labels and all(own == labels[0] for own in labels):
        content["labels"] = labels[0]
        for split in SPLITS:
            content |= {split: [_without_labels(case) for case in reader.splits[split]]} if split in content else {}
    return content


def made_from_lists(dataset_dir: str | Path) -> bool:
    """Whether ``<dataset_dir>/dataset.json`` is one that ``read_lists`` made."""
    try:
        content = json.loads((Path(dataset_dir) / "dataset.json").read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and "lists" in content


def write_description(content: Mapping[str, Any], dataset_dir: str | Path) -> Path:
    """Write ``<dataset_dir>/dataset.json``, whole, and return its path."""
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
    """Cases by split, and faults, of the lists read so far."""

    def __init__(self, data_root: Path, catalogue: Mapping[str, DataSet], class_set: ClassSet) -> None:
        self.data_root = data_root
        self.catalogue = catalogue
        self.class_set = class_set
        self.splits: dict[str, list[dict[str, Any]]] = {}
        self.faults: list[str] = []
        self._named: dict[Path, _Line] = {}
        self._checked: list[Mapping[str, Any]] = []

    def read(self, file: Path, split: str) -> None:
        data = file.read_bytes()
        try:
            text = data.decode("utf-8-sig").rstrip()
        except UnicodeDecodeError as error:
            line = _Line(file, data.count(b"\n", 0, error.start) + 1, split)
            self._fault(line, f"a list must be text in UTF-8, and this is not: {error.reason}. Save it as UTF-8.")
            return
        for number, row in enumerate(text.split("\n"), start=1):
            self._add(_Line(file, number, split), [column.strip() for column in row.split("\t")])

    def _fault(self, line: _Line, message: str) -> None:
        self.faults.append(f"{line}: {message}")

    def _add(self, line: _Line, columns: list[str]) -> None:
        complete = len(columns) == len(set(columns)) == (1 if line.split == UNLABELLED else 2)
        if not complete or not all(columns):
            wanted = "one image" if line.split == UNLABELLED else "an image, a tab and its label"
            self._fault(line, f"a line must be {wanted}, not {'<tab>'.join(columns)!r:.200}.")
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
            self._fault(line, f"the image is of data set {key}, and so must be its label, not {columns[1]}.")
        if row.evaluation_only and line.split == SPLITS[0]:
            self._fault(line, f"data set {key} is for evaluation only: move the line to a test list.")
        files = dict(zip(("image", "label"), (str(self.data_root / column) for column in columns), strict=False))
        labels = {} if line.split == UNLABELLED else {"labels": row.labels_of(columns[0])}
        self.splits.setdefault(line.split, []).append({**files, **labels, "dataset": key})
        if labels:
            self._check_labels(key, labels["labels"])

    def _is_path(self, line: _Line, path: str) -> bool:
        pure = PurePosixPath(path)
        if not path.isprintable():
            self._fault(line, f"a path must hold no invisible characters: {path!a}.")
        elif pure.is_absolute() or ".." in pure.parts or "\\" in path:
            self._fault(line, f"a path must be relative to the data root, stay in it and use /, not be {path}.")
        elif not path.lower().endswith((".nii", ".nii.gz")):
            self._fault(line, f"a path must be of a NIfTI file (.nii or .nii.gz), not {path}.")
        else:
            return True
        return False

    def _is_new_file(self, line: _Line, path: str) -> bool:
        file = self.data_root / path
        if not file.is_file():
            self._fault(line, f"{file} does not exist.")
        elif (first := self._named.setdefault(file.resolve(), line)) is not line:
            self._fault(line, f"a file may be named once, in one split; {path} is in {first.split} already ({first}).")
        else:
            return True
        return False

    def _data_set(self, line: _Line, path: str) -> str | None:
        """Key of the data set that a path is of; None, and a fault, if there is none or several."""
        keys = [key for key, row in self.catalogue.items() if row.holds(path)]
        if len(keys) == 1:
            return keys[0]
        found = f"data sets {' and '.join(keys)} have" if keys else "no data set of the catalogue has"
        self._fault(line, f"{found} the folder of {path}: correct the path, or give a catalogue of your own.")
        return None

    def _check_labels(self, key: str, labels: Mapping[str, Any]) -> None:
        if labels not in self._checked:
            self._checked.append(labels)
            try:
                value_table(labels, self.class_set, source=f"the catalogue, data set {key!r}")
            except ValueError as error:
                self.faults.append(str(error))


def _without_labels(case: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in case.items() if key != "labels"}
