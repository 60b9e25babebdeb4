"""List files from folders of images and labels."""

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from zlib import crc32

from custom.datasets.dataset_json import SPLITS, UNLABELLED
from custom.datasets.list_files import ENDINGS
from custom.utils.files import atomic_write


def split_cases(
    image: str, label: str, *, data_root: str | Path, shares: Sequence[float] = (8, 1, 1)
) -> dict[str, list[tuple[str, ...]]]:
    """Pair the images and labels of a data set and split them: rows (image, label) by split.

    ``image`` and ``label`` are patterns of paths below the data root, "Task03_Liver/imagesTr/{}.nii.gz"; {} stands for
    what an image and its label have in common, within one name of a file or folder. The split of a case depends on the
    names alone. ``shares`` are of training, validation and test; one above 0 gets at least one case if there are
    enough. Images without a label are "unlabelled", rows (image,).

    Raises:
        ValueError: a pattern without {}, that leaves the root, or that no file matches; fewer labelled cases than
            splits; shares that are not three numbers with a training share above 0.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or shares[0] <= 0:
        raise ValueError(
            f"--shares must be three numbers for {', '.join(SPLITS)}, such as 8,1,1, the first above 0, not {shares!r}."
        )
    images, labels = (_find(pattern, Path(data_root).expanduser()) for pattern in (image, label))
    images = {name: path for name, path in images.items() if path not in labels.values()}  # both in one folder
    if strays := sorted(labels.keys() - images.keys()):
        missing = image.replace("{}", strays[0])
        raise ValueError(f"Every label must have its image; {labels[strays[0]]} has no {missing} ({len(strays)} such).")
    if len(labels) < (wanted := sum(share > 0 for share in shares)):
        raise ValueError(f"{label} has {len(labels)} cases, too few for {wanted} splits: change --shares.")
    order = sorted(labels, key=lambda name: (crc32(name.encode()), name))
    counts = [max(1, round(len(order) * share / sum(shares))) if share else 0 for share in shares[1:]]
    while sum(counts) >= len(order):  # training gets at least one
        counts[counts.index(max(counts))] -= 1
    parts = (order[sum(counts) :], order[: counts[0]], order[counts[0] : sum(counts)])
    rows: dict[str, list[tuple[str, ...]]] = {
        split: [(images[name], labels[name]) for name in images if name in part]
        for split, part in zip(SPLITS, parts, strict=True)
    }
    return rows | {UNLABELLED: [(path,) for name, path in images.items() if name not in labels]}


def write_lists(splits: Mapping[str, Sequence[Sequence[str]]], path: str | Path) -> list[Path]:
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
    if pattern.count("{}") != 1 or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ValueError(
            "A pattern must be a path relative to the data root with {} once, such as img/img{}.nii.gz, "
            f"not {pattern!r}."
        )
    pattern = PurePosixPath(pattern).as_posix()  # ./img is img
    ends = pattern.split("{}")
    expression = re.compile("([^/]+)".join(map(re.escape, ends)))
    found = {}
    for file in root.glob("*".join(map(glob.escape, ends))):
        path = file.relative_to(root).as_posix()
        if (match := expression.fullmatch(path)) and not file.name.startswith("."):  # macOS leaves ._liver_1.nii.gz
            found[match[1]] = path
    if not found:
        raise ValueError(f"No file below {root.absolute()} matches {pattern}.")
    return dict(sorted(found.items()))
