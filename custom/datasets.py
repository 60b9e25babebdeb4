"""Data sets on disk -> data dicts, with what their label values mean."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from custom.anatomy import ClassSet
from custom.losses import UNKNOWN

#: Lists of cases that dataset.json may hold.
SPLITS = ("training", "validation", "test")

#: Row value of a raw label value that the data set does not declare.
UNDECLARED = -2


def read_data_list(dataset_dir: str | Path, split: str, class_set: ClassSet) -> list[dict[str, Any]]:
    """Read one split of ``<dataset_dir>/dataset.json``.

    The file follows the Medical Segmentation Decathlon's: ``training``, ``validation`` and ``test`` hold
    ``{"image": ..., "label": ...}`` with paths relative to the folder, and ``labels`` says what each raw value means:
    a class of the class set, or several (a tumour inside an organ is both). A class named there counts as labelled
    throughout the data set; every other class is unknown. A case with ``labels`` of its own is described by those
    alone: annotators may have labelled other classes in it, or numbered them otherwise.

    Returns:
        A dict per case: ``image``, ``label`` (absolute paths) and ``value_table`` (see ``value_table``).

    Raises:
        FileNotFoundError: no dataset.json, or files it lists are missing.
        ValueError: a file that is no such JSON, a split without cases, a case without image, label or what its values
            mean, an unknown class or a raw value outside 1..255.
    """
    file, content = _read_description(dataset_dir)
    folder = file.parent
    cases = content.get(split) or []
    if not cases:
        raise ValueError(f"{file}: the split {split!r} lists no cases; splits with cases: {_splits(content)}.")
    data = []
    missing = []
    for case in cases:
        if not (isinstance(case, dict) and isinstance(case.get("image"), str) and isinstance(case.get("label"), str)):
            raise ValueError(
                f'{file}: every case of {split!r} must be {{"image": path, "label": path}}, not {case!r:.120}.'
            )
        paths = {key: folder / case[key] for key in ("image", "label")}
        missing += [str(path) for path in paths.values() if not path.is_file()]
        table = _case_table(case, content, class_set, file=file)
        data.append({key: str(path) for key, path in paths.items()} | {"value_table": table})
    if missing:
        raise FileNotFoundError(
            f"{file}: {len(missing)} files of split {split!r} are missing: {', '.join(missing[:5])}"
        )
    return data


def labelled_names(dataset_dir: str | Path, class_set: ClassSet) -> list[str]:
    """Names of the classes that ``<dataset_dir>/dataset.json`` labels for training, in the order of the class set.

    These are the data set's and those of its training cases: what only a validation case labels is never learned.
    """
    file, content = _read_description(dataset_dir)
    own = [case for case in content.get("training") or [] if _has_labels(case)]
    described = own if own and "labels" not in content else [{}, *own]
    tables = [_case_table(case, content, class_set, file=file) for case in described]
    return [item.name for item in class_set if any(table[0, item.index - 1] == 0 for table in tables)]


def highest_label_value(dataset_dir: str | Path) -> int:
    """The highest raw label value that ``<dataset_dir>/dataset.json`` declares, for all its cases or for one."""
    file, content = _read_description(dataset_dir)
    cases = [case for split in SPLITS for case in content.get(split) or [] if _has_labels(case)]
    declared = [labels for labels in (part.get("labels") for part in [content, *cases]) if isinstance(labels, Mapping)]
    values = [int(value) for labels in declared for value in labels if str(value).isdecimal()]
    if not values:
        raise ValueError(f'{file}: "labels" must say what each raw value means, not {content.get("labels")!r:.80}.')
    return max(values)


def _has_labels(case: Any) -> bool:
    return isinstance(case, Mapping) and "labels" in case


def _case_table(
    case: Mapping[str, Any], content: Mapping[str, Any], class_set: ClassSet, *, file: Path
) -> torch.Tensor:
    """Value table of a case: by its own labels, else by the data set's."""
    if _has_labels(case):
        return value_table(case["labels"], class_set, source=f"{file}, case {case.get('label')!r}")
    return value_table(content.get("labels", {}), class_set, source=str(file))


def _read_description(dataset_dir: str | Path) -> tuple[Path, dict[str, Any]]:
    file = Path(dataset_dir).expanduser().resolve() / "dataset.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist: --dataset_dir must be a folder with a dataset.json, images and labels, such as "
            "scripts/make_phantoms.py writes."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold an object {{...}} with labels and splits, not {content!r:.80}.")
    return file, content


def value_table(labels: Mapping[str, str | list[str]], class_set: ClassSet, *, source: str) -> torch.Tensor:
    """What each raw label value means, as a lookup table (256, K) int8.

    Row v holds 1 for the classes a voxel of value v belongs to, 0 for the other labelled classes, UNKNOWN for classes
    the data set does not label; UNDECLARED throughout for a value that ``labels`` does not mention. Value 0 is
    background, and so is a value that means no class (an empty list).

    Args:
        labels: raw value -> class name or list of names.
        class_set: names and order of the K channels.
        source: file named in errors.

    Raises:
        ValueError: no labels, an unknown class, or a value that is no integer of 1..255.
    """
    if not isinstance(labels, Mapping):
        raise ValueError(f'{source}: "labels" must map raw values to class names, not {labels!r:.80}.')
    members: dict[int, list[int]] = {}
    for raw, names in labels.items():
        if not str(raw).isdecimal() or int(raw) > 255:
            raise ValueError(f"{source}: label values must be integers of 0..255, not {raw!r}.")
        names = [names] if isinstance(names, str) else names
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError(
                f"{source}: label value {raw} must mean a class name or a list of them, not {names!r:.80}."
            )
        if int(raw) == 0:
            continue
        try:
            members[int(raw)] = [class_set.index(name) - 1 for name in names]
        except ValueError as error:
            raise ValueError(f"{source}: label value {raw}: {error}") from error
    if not any(members.values()):
        raise ValueError(
            f'{source}: "labels" must say what each raw value means, e.g. {{"1": "spleen", "27": ["liver tumor", '
            f'"liver"]}}; received {dict(labels)}.'
        )
    background = torch.full((len(class_set),), UNKNOWN, dtype=torch.int8)
    background[sorted({channel for channels in members.values() for channel in channels})] = 0
    table = torch.full((256, len(class_set)), UNDECLARED, dtype=torch.int8)
    table[0] = background
    for raw_value, channels in members.items():
        table[raw_value] = background
        table[raw_value, channels] = 1
    return table


def list_images(images: Any) -> list[str]:
    """NIfTI files that ``--image`` means: a file, a folder (its files, sorted), or several of these.

    Several are a list, or one text with commas, in brackets or not: "[a.nii.gz,b.nii.gz]".

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that is not named .nii or .nii.gz, or two files that would be answered in one folder.
    """
    found = list(dict.fromkeys(image for path in _split_paths(images) for image in _list_path(path)))
    owners: dict[str, str] = {}
    for image in found:
        if (first := owners.setdefault(case_name(image), image)) != image:
            raise ValueError(
                f"{first} and {image} would be answered in one folder {case_name(image)}: rename one, or answer them "
                "in two runs with different --output_dir."
            )
    return found


def case_name(image: str | Path) -> str:
    """Name of an image without .nii or .nii.gz: what its answer is called."""
    return Path(image).name.removesuffix(".gz").removesuffix(".nii")


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


def _splits(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} ({len(content[key])})" for key in SPLITS if content.get(key))
