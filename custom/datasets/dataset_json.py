"""``dataset.json``: cases of a data set as data dicts, whole or in folds, with the meaning of their label values."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import torch

from custom.anatomy.class_set import ClassSet
from custom.datasets.labels import UNDECLARED, Sides, side_values, value_table

logger = logging.getLogger(__name__)

#: Lists of labelled cases that dataset.json may hold, and its list of images without labels.
SPLITS = ("training", "validation", "test")
UNLABELLED = "unlabelled"

#: Texts by which a dataset.json says what its data are, named as in the Medical Segmentation Decathlon's.
STATED = ("name", "description", "reference", "licence", "license")


def read_data_list(dataset_dir: str | Path, split: str, class_set: ClassSet) -> list[dict[str, Any]]:
    """Read one split of ``<dataset_dir>/dataset.json``.

    The file has the form of the Medical Segmentation Decathlon's: ``training``, ``validation`` and ``test`` hold
    ``{"image": ..., "label": ...}`` with paths relative to the folder, and ``labels`` maps each raw value to a class,
    to several (a tumour inside an organ), or to a group of a right and a left class ("kidneys"). Classes that it does
    not name are unknown. ``labels`` of a case replace those of the data set. ``unlabelled`` holds images without
    labels, as {"image": ...}; so does the Decathlon's ``test``, as plain paths.

    Returns:
        A dict per case: ``image`` (absolute path) and ``dataset`` (the case's own entry, else the file's ``name``, else
        the folder's name); where there are labels, ``label`` (absolute path), ``value_table`` and ``sides`` (see
        ``value_table`` and ``side_values``).

    Raises:
        FileNotFoundError: no dataset.json, or missing files.
        ValueError: JSON of another form, a split without cases, a case without image, label or ``labels``, a duplicate
            image, or ``labels`` that ``value_table`` refuses.
    """
    file, content = _read_description(dataset_dir)
    folder = file.parent
    keys = ("image",) if split == UNLABELLED else ("image", "label")
    cases = content.get(split) or []
    if not cases:
        filled = ", ".join(f"{key} ({len(content[key])})" for key in (*SPLITS, UNLABELLED) if content.get(key))
        raise ValueError(f"{file}: the split {split!r} lists no cases; splits with cases: {filled}.")
    for case in cases:
        if not (isinstance(case, dict) and all(isinstance(case.get(key), str) for key in keys)):
            wanted = ", ".join(f'"{key}": path' for key in keys)
            raise ValueError(f"{file}: every case of {split!r} must be {{{wanted}}}, not {case!r:.120}.")
        if not isinstance(case.setdefault("dataset", content.get("name", folder.name)), str):
            raise ValueError(f'{file}: "dataset" or "name" must be a string, not {case["dataset"]!r:.80}.')
    images = Counter(os.path.normpath(case["image"]) for case in cases)
    if twice := [image for image, count in images.items() if count > 1]:
        raise ValueError(
            f"{file}: an image may occur once in a split, not {', '.join(twice[:5])} ({len(twice)} such): in folds and "
            "among several processes it would be another case. Merge their labels, or keep one."
        )
    if missing := [case[key] for case in cases for key in keys if not (folder / case[key]).is_file()]:
        raise FileNotFoundError(f"{file}: {len(missing)} files of {split!r} are missing: {', '.join(missing[:5])}")
    data = [{key: str(folder / case[key]) for key in keys} | {"dataset": case["dataset"]} for case in cases]
    if split == UNLABELLED:
        return data
    values = _values(cases, content, class_set, file=file)
    return [item | {"value_table": table, "sides": sides} for item, (table, sides) in zip(data, values, strict=True)]


@dataclass
class Cases:
    """``<dataset_dir>/dataset.json``, read when a split is needed; with ``folds``, divided for cross-validation.

    The training list is then divided into ``folds`` parts, data set by data set, by the names of the cases alone,
    whatever their order. Part ``fold`` (0 .. folds - 1) is the "validation" split and the others are the "training"
    split; the data set's own "validation" list is not used.
    """

    dataset_dir: str | Path
    class_set: ClassSet
    _: KW_ONLY
    folds: int | None = None
    fold: int = 0

    def read(self, split: str) -> list[dict[str, Any]]:
        """The cases of a split, see ``read_data_list``; a ValueError if ``folds`` or ``fold`` is out of range."""
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

    def describe(self, cases: Sequence[Any]) -> dict[str, Any]:
        """What the data set states of itself, and the number of these training cases: see ``describe_data``."""
        return describe_data(self.dataset_dir, cases)

    @property
    def labelled_classes(self) -> list[str]:
        """Names of the classes that the data set or one of its training cases labels, in the order of the class set."""
        tables = _tables(self.dataset_dir, SPLITS[:1], self.class_set)
        return [item.name for item in self.class_set if any(table[0, item.index - 1] == 0 for table in tables)]

    @property
    def highest_label_value(self) -> int:
        """The highest label value of any case, once sides are split."""
        tables = _tables(self.dataset_dir, SPLITS, self.class_set)
        return max(int((table[:, 0] != UNDECLARED).nonzero().max()) for table in tables)


def list_splits(dataset_dir: str | Path) -> list[str]:
    """The splits of ``<dataset_dir>/dataset.json`` that list labelled cases."""
    content = _read_description(dataset_dir)[1]
    return [split for split in SPLITS if content.get(split)]


def warn_of_unlearned(cases: Sequence[Mapping[str, Any]], class_set: ClassSet, learned: Collection[str]) -> None:
    """Warn that scores of classes which the weights have not ``learned`` (names; empty if unknown) are meaningless."""
    labelled = [item.name for item in class_set if any(case["value_table"][0, item.index - 1] == 0 for case in cases)]
    if learned and (unlearned := [name for name in labelled if name not in learned]):
        logger.warning(
            "The weights were not trained on %s, which the data set labels; their scores, and the means over all "
            "classes, are meaningless. Give their values [] in a dataset.json for this evaluation to leave them out.",
            ", ".join(unlearned),
        )


def describe_cases(cases: Sequence[Mapping[str, Any]]) -> str:
    """The number of cases and a hash of their names and value tables, whatever their folder."""
    digest = hashlib.sha256()
    for (_, name), case in sorted(zip(_names(cases), cases, strict=True), key=lambda pair: pair[0]):
        digest.update(repr(name).encode() + case["value_table"].numpy().tobytes())
    return f"{len(cases)} cases ({digest.hexdigest()[:8]})"


def describe_data(folder: str | Path, cases: Sequence[Any]) -> dict[str, Any]:
    """What ``<folder>/dataset.json`` states of its data, for the header of weights that are trained on these cases.

    Only its own words, such as ``name``, ``description`` and ``licence``; where it names no data set, those of its
    cases. Nothing is made of folders or file names, since weights are handed on.
    """
    content = _read_description(folder)[1]
    stated = {key: content[key] for key in STATED if isinstance(content.get(key), str) and content[key].strip()}
    stated |= {key: content[key] for key in ("seed", "spacing") if key in content}
    if "name" not in stated and (names := {case.get("dataset") for case in content.get("training") or []} - {None}):
        stated["name"] = ", ".join(sorted(map(str, names)))
    return stated | {"training_cases": len(cases)}


def _names(cases: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Data set of each case, and path of its image relative to the common folder of that data set's images."""
    folders: dict[str, list[Path]] = {}
    for case in cases:
        folders.setdefault(case["dataset"], []).append(Path(case["image"]).parent)
    common = {dataset: os.path.commonpath(paths) for dataset, paths in folders.items()}
    return [(case["dataset"], Path(case["image"]).relative_to(common[case["dataset"]]).as_posix()) for case in cases]


def _tables(dataset_dir: str | Path, splits: Sequence[str], class_set: ClassSet) -> list[torch.Tensor]:
    """Value tables of the data set's labels and of those of the cases of ``splits``."""
    file, content = _read_description(dataset_dir)
    cases = (case for split in splits for case in content.get(split) or [])
    own = [case for case in cases if isinstance(case, dict) and "labels" in case]
    described = own if own and "labels" not in content else [{}, *own]
    return [table for table, _ in _values(described, content, class_set, file=file)]


def _values(
    cases: Sequence[Mapping[str, Any]], content: Mapping[str, Any], class_set: ClassSet, *, file: Path
) -> Iterator[tuple[torch.Tensor, Sides]]:
    """Value tables and sides of cases by their own labels, else the data set's; equal labels share one table."""
    known: dict[str, tuple[torch.Tensor, Sides]] = {}
    for case in cases:
        labels = case.get("labels", content.get("labels", {}))
        source = f"{file}, case {case.get('label')!r}" if "labels" in case else str(file)
        if (key := json.dumps(labels)) not in known:
            known[key] = value_table(labels, class_set, source=source), side_values(labels, class_set, source=source)
        yield known[key]


def _read_description(dataset_dir: str | Path) -> tuple[Path, dict[str, Any]]:
    file = Path(dataset_dir).expanduser().resolve() / "dataset.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist: --dataset_dir must be a folder with a dataset.json, images and labels, such as "
            "scripts/make_phantoms.py writes."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold an object {{...}} with labels and splits, not {content!r:.80}.")
    if bare := [{"image": case} for case in content.get("test") or [] if isinstance(case, str)]:
        content["test"] = [case for case in content["test"] if not isinstance(case, str)]
        content[UNLABELLED] = [*(content.get(UNLABELLED) or []), *bare]
    return file, content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without duplicate names, of which ``json`` would keep the last."""
    counts = Counter(name for name, _ in pairs)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise ValueError(f"a name may occur once in an object, not {', '.join(map(repr, twice))} twice.")
    return dict(pairs)
