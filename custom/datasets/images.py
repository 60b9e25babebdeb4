"""Images that a command line names."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from custom.anatomy import ClassSet, load_class_set
from custom.datasets.description import read_data_list


def list_images(images: Any, *, split: str | None = None, class_set: ClassSet | None = None) -> list[str]:
    """NIfTI files that ``--image`` means: a file, a folder (its files, sorted), or several of these.

    Several are a list, or one text with commas, in brackets or not: "[a.nii.gz,b.nii.gz]". With a split, ``images`` is
    the folder of a data set, of whose dataset.json that split's images are meant; those without labels are the split
    "unlabelled".

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that is not named .nii or .nii.gz, two files whose answers would be called the same, or a
            split that ``read_data_list`` refuses.
    """
    if split is not None:
        images = [case["image"] for case in read_data_list(images, split, class_set or load_class_set())]
    found = list(dict.fromkeys(image for path in _split_paths(images) for image in _list_path(path)))
    answer_names(found)
    return found


def answer_names(images: Sequence[str | Path]) -> list[str]:
    """What the answer to each image is called: the file's name without .nii or .nii.gz.

    Images of one name have as many of their folders before it as tell them apart: ``case_00000_imaging``.

    Raises:
        ValueError: two images whose answers would be called the same, as a.nii beside a.nii.gz.
    """
    files = [Path(image) for image in images]
    parts = [(*file.parts[1:-1], file.name.removesuffix(".gz").removesuffix(".nii")) for file in files]
    names = [own[-1] for own in parts]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        counted = Counter(names)
        names = ["_".join(own[-depth:]) if counted[name] > 1 else name for own, name in zip(parts, names, strict=True)]
    for name, count in Counter(names).items():
        if count > 1:
            first, second, *_ = (file for file, other in zip(files, names, strict=True) if other == name)
            raise ValueError(
                f"{first} and {second} would be answered in folders of one name: rename one, or answer them in two "
                "runs with different --output_dir."
            )
    return names


def _split_paths(images: Any) -> list[str | Path]:
    if isinstance(images, str | Path):
        if "," not in str(images) or Path(images).expanduser().exists():
            return [images]
        images = [part.strip(" \"'") for part in str(images).strip("[]() ").split(",")]
    if not isinstance(images, list | tuple) or not all(isinstance(path, str | Path) and str(path) for path in images):
        raise ValueError(
            f"--image must be a NIfTI file, a folder of them, or a list of such paths, not {images!r:.200}."
        )
    if not images:
        raise ValueError("--image must name at least one NIfTI file or folder; the list is empty.")
    return list(images)


def _list_path(path: str | Path) -> list[str]:
    path = Path(path).expanduser().absolute()
    if path.is_dir():
        images = sorted(str(file) for file in path.iterdir() if _is_nifti(file))
        if not images:
            raise FileNotFoundError(f"The folder {path} holds no .nii or .nii.gz file.")
        return images
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}: pass --image with a NIfTI file or a folder of them.")
    if not _is_nifti(path):
        raise ValueError(f"An image must be a NIfTI file (.nii or .nii.gz), not {path}.")
    return [str(path)]


def _is_nifti(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith((".nii", ".nii.gz")) and not path.name.startswith(".")
