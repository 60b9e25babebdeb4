"""List files from folders of images and labels."""

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zlib import crc32

from custom.datasets.dataset_json import SPLITS, UNLABELLED
from custom.datasets.list_files import ENDINGS
from custom.utils.files import atomic_write

#: In a pattern, the part of the name that an image and its label have in common.
PLACEHOLDER = "{}"

Row = tuple[str, ...]


class Pattern(NamedTuple):
    """Paths of a data set's files below the data root, with ``PLACEHOLDER`` once in each."""

    image: str
    label: str


def split_cases(
    pattern: Pattern, *, data_root: str | Path, shares: Sequence[float] = (8, 1, 1)
) -> dict[str, list[Row]]:
    """Pair the images and labels of a data set and split them: rows (image, label) by split.

    The split of a case depends on the names alone. Images without a label are "unlabelled", rows (image,).

    Args:
        pattern: "Task03_Liver/imagesTr/{}.nii.gz" and "Task03_Liver/labelsTr/{}.nii.gz", or "img/img{}.nii.gz" and
            "label/label{}.nii.gz": the placeholder is within one name of a file or folder.
        data_root: folder of relative paths.
        shares: of training, validation and test; one above 0 gets at least one case if there are enough.

    Raises:
        ValueError: a pattern without its placeholder, that leaves the root, or that no file matches; fewer labelled
            cases than splits; shares that are not three numbers with a training share above 0.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or shares[0] <= 0:
        raise ValueError(
            f"--shares must be three numbers for {', '.join(SPLITS)}, such as 8,1,1, the first above 0, not {shares!r}."
        )
    images, labels = (_find(part, Path(data_root).expanduser()) for part in pattern)
    images = {name: path for name, path in images.items() if path not in labels.values()}  # both in one folder
    if strays := sorted(labels.keys() - images.keys()):
        raise ValueError(
            f"Every label must have its image; {labels[strays[0]]} has no "
            f"{pattern.image.replace(PLACEHOLDER, strays[0])} ({len(strays)} such)."
        )
    if len(labels) < (wanted := sum(share > 0 for share in shares)):
        raise ValueError(f"{pattern.label} has {len(labels)} cases, too few for {wanted} splits: change --shares.")
    order = sorted(labels, key=lambda name: (crc32(name.encode()), name))
    counts = [max(1, round(len(order) * share / sum(shares))) if share else 0 for share in shares[1:]]
    while sum(counts) >= len(order):  # training gets at least one
        counts[counts.index(max(counts))] -= 1
    held_out = [order[: counts[0]], order[counts[0] : sum(counts)]]
    names = dict(zip(SPLITS, [order[sum(counts) :], *held_out], strict=True))
    rows: dict[str, list[Row]] = {
        split: [(images[name], labels[name]) for name in images if name in own] for split, own in names.items()
    }
    return rows | {UNLABELLED: [(image,) for name, image in images.items() if name not in labels]}


def write_lists(splits: Mapping[str, Sequence[Row]], path: str | Path) -> list[Path]:
    """Write ``<path>_train.txt`` and so on for the splits with cases, and return their paths.

    Raises:
        FileExistsError: one exists; replacing it might move training cases to the test list.
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
    """Paths relative to the root by the text of the placeholder, sorted by it."""
    if pattern.count(PLACEHOLDER) != 1 or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ValueError(
            f"A pattern must be a path relative to the data root with {PLACEHOLDER} once, such as "
            f"img/img{PLACEHOLDER}.nii.gz, not {pattern!r}."
        )
    pattern = PurePosixPath(pattern).as_posix()  # ./img is img
    expression = re.compile("([^/]+)".join(map(re.escape, pattern.split(PLACEHOLDER))))
    found = {}
    for file in root.glob("*".join(map(glob.escape, pattern.split(PLACEHOLDER)))):
        path = file.relative_to(root).as_posix()
        if (match := expression.fullmatch(path)) and not file.name.startswith("."):  # macOS leaves ._liver_1.nii.gz
            found[match[1]] = path
    if not found:
        raise ValueError(f"No file below {root.absolute()} matches {pattern}.")
    return dict(sorted(found.items()))
