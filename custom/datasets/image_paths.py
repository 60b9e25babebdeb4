"""Images of a command line."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from custom.anatomy.class_set import ClassSet
from custom.anatomy.loading import load_class_set
from custom.datasets.dataset_json import read_data_list
from custom.imageio.readers import SUFFIXES, is_series_folder, is_volume_file


def list_images(images: Any, *, split: str | None = None, class_set: ClassSet | None = None) -> list[str]:
    """Volumes of ``--image``: a NIfTI, NRRD or MetaImage file, a folder, or several of these.

    A folder stands for the files in it, sorted; without any, for the DICOM series in it, one image with the folder's
    name; without DICOM images either, for each of its folders with a series. Several are a list, or a
    string with commas, in brackets or not: "[a.nii.gz,b.nii.gz]". With a split, ``images`` is the folder of a
    ``dataset.json``, and the images of that split are returned.

    Raises:
        FileNotFoundError: no such file, or a folder without images.
        ValueError: a file with another suffix, two images with one output name, or see ``read_data_list``.
    """
    if split is not None:
        images = [case["image"] for case in read_data_list(images, split, class_set or load_class_set())]
    found = list(dict.fromkeys(image for path in _split_paths(images) for image in _list_path(path)))
    output_names(found)
    return found


def output_names(images: Sequence[str | Path]) -> list[str]:
    """Name of each image's result folder: the file's name without its suffix, or the folder's name.

    Images with the same name get as many parent folders before it as needed to differ: ``case_00000_imaging``.

    Raises:
        ValueError: two images with one output name, as a.nii beside a.nii.gz.
    """
    files = [Path(image) for image in images]
    parts = [(*file.parts[1:-1], _stem(file.name)) for file in files]
    names = [own[-1] for own in parts]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        counted = Counter(names)
        names = ["_".join(own[-depth:]) if counted[name] > 1 else name for own, name in zip(parts, names, strict=True)]
    for name, count in Counter(names).items():
        if count > 1:
            first, second, *_ = (file for file, other in zip(files, names, strict=True) if other == name)
            raise ValueError(
                f"{first} and {second} would be written to folders of one name: rename one, or segment them in two "
                "runs with different --output_dir."
            )
    return names


def _stem(name: str) -> str:
    endings = [suffix for suffix in SUFFIXES if name.lower().endswith(suffix)]
    return name[: -len(max(endings, key=len))] if endings else name


def _split_paths(images: Any) -> list[str | Path]:
    if isinstance(images, str | Path):
        if "," not in str(images) or Path(images).expanduser().exists():
            return [images]
        images = [part.strip(" \"'") for part in str(images).strip("[]() ").split(",")]
    paths = images if isinstance(images, list | tuple) else []
    if not paths or not all(isinstance(path, str | Path) and str(path) for path in paths):
        raise ValueError(
            "--image must be a NIfTI, NRRD or MetaImage file, a folder of them, a folder with a DICOM series, or a "
            f"list of these, not {images!r:.200}."
        )
    return list(paths)


def _list_path(path: str | Path) -> list[str]:
    path = Path(path).expanduser().absolute()
    if is_volume_file(path):
        return [str(path)]
    if path.is_file():
        raise ValueError(
            f"An image must be a file with one of the suffixes {', '.join(SUFFIXES)}, and no segmentation, not {path}. "
            "Of a DICOM series, pass the folder that holds its slices."
        )
    if not path.is_dir():
        raise FileNotFoundError(
            f"There is no image {path}: pass --image with a NIfTI, NRRD or MetaImage file, or a folder of them, or one "
            "with a DICOM series."
        )
    entries = sorted(path.iterdir())
    if files := [str(entry) for entry in entries if is_volume_file(entry)]:
        return files
    if is_series_folder(path):
        return [str(path)]
    if series := [str(entry) for entry in entries if is_series_folder(entry) and entry.name[0] != "."]:
        return series
    raise FileNotFoundError(
        f"The folder {path} holds no file with one of the suffixes {', '.join(SUFFIXES)} and no DICOM series, nor does "
        "a folder in it hold a series. Name deeper folders of series themselves."
    )
