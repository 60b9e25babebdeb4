"""Folders of images and labels -> list files, for those who have no lists yet."""

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zlib import crc32

from custom.datasets.dataset_json import SPLITS, UNLABELLED
from custom.datasets.list_files import ENDINGS
from custom.utils.files import atomic_write

#: Stands in a pattern for what an image and its label have in common.
PLACE = "{}"

Row = tuple[str, ...]


class Pattern(NamedTuple):
    """Where a data set's files lie below the data root, with ``PLACE`` once in each."""

    image: str
    label: str


def split_cases(
    pattern: Pattern, *, data_root: str | Path, shares: Sequence[float] = (8, 1, 1)
) -> dict[str, list[Row]]:
    """Pair the images and labels of a data set and deal them out: rows (image, label) by split.

    Which case goes where depends on the names alone. Images without a label are the split "unlabelled", rows (image,).

    Args:
        pattern: "Task03_Liver/imagesTr/{}.nii.gz" and "Task03_Liver/labelsTr/{}.nii.gz", or "img/img{}.nii.gz" and
            "label/label{}.nii.gz": the placeholder is what both have in common, within one name of file or folder.
        data_root: folder that the patterns start from.
        shares: of training, validation and test; a share above 0 gets a case at least where there are enough.

    Raises:
        ValueError: a pattern without its placeholder, that leaves the root, or that no file has; fewer labelled cases
            than splits; shares that are no shares.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or shares[0] <= 0:
        raise ValueError(
            f"--shares must be three numbers for {', '.join(SPLITS)}, such as 8,1,1, the first above 0, not {shares!r}."
        )
    images, labels = (_find(part, Path(data_root).expanduser()) for part in pattern)
    images = {name: path for name, path in images.items() if path not in labels.values()}  # a folder of both
    if strays := sorted(labels.keys() - images.keys()):
        raise ValueError(
            f"Every label must have its image; {labels[strays[0]]} has no {pattern.image.replace(PLACE, strays[0])} "
            f"({len(strays)} such)."
        )
    if len(labels) < (wanted := sum(share > 0 for share in shares)):
        raise ValueError(f"{pattern.label} has {len(labels)} cases, too few for {wanted} splits: change --shares.")
    order = sorted(labels, key=lambda name: (crc32(name.encode()), name))
    counts = [max(1, round(len(order) * share / sum(shares))) if share else 0 for share in shares[1:]]
    while sum(counts) >= len(order):  # training gets one
        counts[counts.index(max(counts))] -= 1
    held_out = [order[: counts[0]], order[counts[0] : sum(counts)]]
    names = dict(zip(SPLITS, [order[sum(counts) :], *held_out], strict=True))
    rows: dict[str, list[Row]] = {
        split: [(images[name], labels[name]) for name in images if name in chosen] for split, chosen in names.items()
    }
    return rows | {UNLABELLED: [(image,) for name, image in images.items() if name not in labels]}


def write_lists(splits: Mapping[str, Sequence[Row]], path: str | Path) -> list[Path]:
    """Write ``<path>_train.txt`` and so on, those with cases; returns them.

    Raises:
        FileExistsError: there is one already: another draw would mix what was trained on with what is tested on.
    """
    files = {Path(f"{path}_{ending}.txt").expanduser(): splits.get(split, []) for ending, split in ENDINGS.items()}
    if existing := [file for file in files if file.exists()]:
        raise FileExistsError(f"{existing[0]} exists and is not replaced: remove the lists, or name others.")
    for file, rows in files.items():
        if rows:
            with atomic_write(file) as temporary:
                temporary.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return [file for file, rows in files.items() if rows]


def _find(pattern: str, root: Path) -> dict[str, str]:
    """Paths relative to the root by what stands in the placeholder, in the order of the latter."""
    if pattern.count(PLACE) != 1 or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ValueError(
            f"A pattern must be a path relative to the data root with {PLACE} once, such as img/img{PLACE}.nii.gz, not "
            f"{pattern!r}."
        )
    pattern = PurePosixPath(pattern).as_posix()  # ./img is img
    shape = re.compile("([^/]+)".join(map(re.escape, pattern.split(PLACE))))
    found = {}
    for file in root.glob("*".join(map(glob.escape, pattern.split(PLACE)))):
        path = file.relative_to(root).as_posix()
        if (match := shape.fullmatch(path)) and not file.name.startswith("."):  # macOS leaves ._liver_1.nii.gz
            found[match[1]] = path
    if not found:
        raise ValueError(f"No file below {root.absolute()} is called {pattern}.")
    return dict(sorted(found.items()))
