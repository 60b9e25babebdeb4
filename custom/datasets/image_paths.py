"""Images that a command line names."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from custom.anatomy.class_set import ClassSet
from custom.anatomy.loading import load_class_set
from custom.datasets.dataset_json import read_data_list
from custom.imageio.readers import NIFTI_SUFFIXES, NRRD_SUFFIXES, is_series_folder, is_volume_file


def list_images(images: Any, *, split: str | None = None, class_set: ClassSet | None = None) -> list[str]:
    """Volumes that ``--image`` means: a NIfTI or NRRD file, a folder, or several of these.

    A folder means the NIfTI and NRRD files in it, sorted; where it has none, the DICOM series in it, which is one image
    named by its folder; where it has no DICOM files either, each of its folders that holds some.

    Several are a list, or one text with commas, in brackets or not: "[a.nii.gz,b.nii.gz]". With a split, ``images`` is
    the folder of a data set, of whose dataset.json that split's images are meant; those without labels are the split
    "unlabelled".

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that is not named .nii, .nii.gz, .nrrd or .nhdr, two images whose answers would be called the
            same, or a split that ``read_data_list`` refuses.
    """
    if split is not None:
        images = [case["image"] for case in read_data_list(images, split, class_set or load_class_set())]
    found = list(dict.fromkeys(image for path in _split_paths(images) for image in _list_path(path)))
    answer_names(found)
    return found


def answer_names(images: Sequence[str | Path]) -> list[str]:
    """What the answer to each image is called: the file's name without its suffix, or the folder's name.

    Images of one name have as many of their folders before it as tell them apart: ``case_00000_imaging``.

    Raises:
        ValueError: two images whose answers would be called the same, as a.nii beside a.nii.gz.
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
                f"{first} and {second} would be answered in folders of one name: rename one, or answer them in two "
                "runs with different --output_dir."
            )
    return names


def _stem(name: str) -> str:
    endings = (suffix for suffix in (*reversed(NIFTI_SUFFIXES), *NRRD_SUFFIXES) if name.endswith(suffix))
    return name.removesuffix(next(endings, ""))


def _split_paths(images: Any) -> list[str | Path]:
    if isinstance(images, str | Path):
        if "," not in str(images) or Path(images).expanduser().exists():
            return [images]
        images = [part.strip(" \"'") for part in str(images).strip("[]() ").split(",")]
    if not isinstance(images, list | tuple) or not all(isinstance(path, str | Path) and str(path) for path in images):
        raise ValueError(
            "--image must be a NIfTI or NRRD file, a folder of them, a folder with a DICOM series, or a list of such "
            f"paths, not {images!r:.200}."
        )
    if not images:
        raise ValueError("--image must name at least one file or folder; the list is empty.")
    return list(images)


def _list_path(path: str | Path) -> list[str]:
    path = Path(path).expanduser().absolute()
    if path.is_dir():
        return _list_folder(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no image {path}: pass --image with a NIfTI or NRRD file, or a folder of them, or one with a "
            "DICOM series."
        )
    if not is_volume_file(path):
        raise ValueError(
            f"An image must be a NIfTI (.nii, .nii.gz) or NRRD file (.nrrd, .nhdr), not {path}. Of a DICOM series, "
            "pass the folder that holds its slices."
        )
    return [str(path)]


def _list_folder(folder: Path) -> list[str]:
    entries = sorted(folder.iterdir())
    if files := [str(path) for path in entries if is_volume_file(path)]:
        return files
    if is_series_folder(folder):
        return [str(folder)]
    if series := [str(path) for path in entries if is_series_folder(path) and path.name[0] != "."]:
        return series
    raise FileNotFoundError(
        f"The folder {folder} holds no .nii, .nii.gz, .nrrd or .nhdr file and no DICOM series, nor does a folder in it "
        "hold a series. Name the folders of series that lie deeper."
    )
