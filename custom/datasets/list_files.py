"""One ``dataset.json`` from the list files of several data sets; all errors are reported together."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

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
    """Content of a dataset.json from the list files of some names, with absolute paths and the key of each data set.

    The files of a name are those that exist of ``<name>_train.txt``, ``_val``, ``_test`` and ``_test2``. A line is an
    image, a tab and its label; in ``_test2`` an image alone. Paths are relative to ``data_root``; their first folders
    determine the data set in the ``catalogue`` (``load_catalogue``), and so the meaning of the label values in
    ``class_set``. If this differs, every case has its own ``labels``.

    Raises:
        FileNotFoundError: a folder that does not exist.
        ValueError: all errors in all files, a line each (``file:line: error``): names without lists, lines of another
            form, files that are missing or listed twice, folders of no data set or of several, pairs of two data sets,
            training on a data set for evaluation only, labels of the catalogue that the class set does not know.
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
    labelled = [case for split in SPLITS for case in reader.splits.get(split, [])]
    if labelled and all(case["labels"] == labelled[0]["labels"] for case in labelled):
        content["labels"] = labelled[0]["labels"]
        for case in labelled:
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


class _Reader:
    """Cases by split, and errors, of the lists read so far."""

    def __init__(self, data_root: Path, catalogue: Mapping[str, DataSet], class_set: ClassSet) -> None:
        self.data_root = data_root
        self.catalogue = catalogue
        self.class_set = class_set
        self.splits: dict[str, list[dict[str, Any]]] = {}
        self.errors: list[str] = []
        self._listed: dict[Path, str] = {}  # where each file is
        self._checked_labels: list[Mapping[str, Any]] = []

    def read(self, file: Path, split: str) -> None:
        data = file.read_bytes()
        try:
            text = data.decode("utf-8-sig").rstrip()
        except UnicodeDecodeError as error:
            number = data.count(b"\n", 0, error.start) + 1
            self.errors.append(f"{file}:{number}: a list must be text in UTF-8: {error.reason}. Save it as UTF-8.")
            return
        for number, row in enumerate(text.split("\n"), start=1):
            line = f"{file}:{number}"
            errors = self._add([column.strip() for column in row.split("\t")], split, line)
            self.errors += [f"{line}: {error}" for error in errors]

    def _add(self, columns: list[str], split: str, line: str) -> list[str]:
        """Add the case of a line; returns what is wrong with it."""
        count, wanted = (1, "one image") if split == UNLABELLED else (2, "an image, a tab and its label")
        if not len(columns) == len(set(columns)) == count or not all(columns):
            return [f"a line must be {wanted}, not {'<tab>'.join(columns)!r:.200}."]
        if errors := [*filter(None, map(_path_error, columns))]:
            return errors
        errors = [*filter(None, (self._file_error(column, f"{split} already ({line})") for column in columns))]
        keys = [key for key, row in self.catalogue.items() if row.holds(columns[0])]
        if len(keys) != 1:
            found = f"data sets {' and '.join(keys)} have" if keys else "no data set of the catalogue has"
            errors.append(f"{found} the folder of {columns[0]}: correct the path, or give a catalogue of your own.")
        if errors:
            return errors
        (key,) = keys
        row = self.catalogue[key]
        if not all(map(row.holds, columns)):
            errors.append(f"an image of data set {key} must have a label of that data set, not {columns[1]}.")
        if row.evaluation_only and split == SPLITS[0]:
            errors.append(f"data set {key} is for evaluation only: move the line to a test list.")
        paths = (str(self.data_root / column) for column in columns)
        case: dict[str, Any] = dict(zip(("image", "label"), paths, strict=False))
        if split != UNLABELLED:
            labels = case["labels"] = row.labels_of(columns[0])
            if labels not in self._checked_labels:
                self._checked_labels.append(labels)
                try:
                    value_table(labels, self.class_set, source=f"the catalogue, data set {key!r}")
                except ValueError as error:
                    errors.append(str(error))
        self.splits.setdefault(split, []).append(case | {"dataset": key})
        return errors

    def _file_error(self, path: str, place: str) -> str | None:
        file = self.data_root / path
        if not file.is_file():
            return f"{file} does not exist."
        if (known := file.resolve()) in self._listed:
            return f"a file may be listed once, in one split; {path} is in {self._listed[known]}."
        self._listed[known] = place
        return None


def _path_error(path: str) -> str | None:
    pure = PurePosixPath(path)
    inside = not pure.is_absolute() and ".." not in pure.parts and "\\" not in path
    rules = (
        (path.isprintable(), f"not have invisible characters: {path!a}"),
        (inside, f"be relative to the data root, stay in it and use /, not be {path}"),
        (path.lower().endswith((".nii", ".nii.gz")), f"be of a NIfTI file (.nii or .nii.gz), not {path}"),
    )
    return next((f"a path must {rule}." for holds, rule in rules if not holds), None)
