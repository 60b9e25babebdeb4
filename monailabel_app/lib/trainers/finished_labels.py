"""Write the finished labels of a datastore as a data set folder, as `custom.datasets` reads it."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from custom.anatomy.class_set import ClassSet
from custom.datasets.list_files import write_description
from custom.imageio.checks import check_cases, check_image
from lib.datastore.labels import wholes_of


class FinishedLabels(NamedTuple):
    """Image ids of a data set by split, and why each of the others was left out."""

    training: list[str]
    validation: list[str]
    left_out: dict[str, str]


def write_dataset(datastore: Datastore, folder: Path, class_set: ClassSet, *, val_split: float) -> FinishedLabels:
    """Write ``folder/dataset.json`` and ``folder/labels/``, copies of the finished labels; images stay where they are.

    Each case lists its own labels. A class counts as labelled in a case only if it is named and has voxels there;
    otherwise it is unknown.

    - Values are named by ``label_info`` of the label (``name``, and ``idx`` or ``id``; Slicer sends it), else by
      ``params.label_names`` (name -> value), in any spelling that the class set knows.
    - Where an organ was drawn, its tumour's voxels are the organ's too. A tumour drawn alone leaves the organ unknown,
      and so does one that may lie in either of two organs (a kidney cyst).

    The id of an image decides whether it is for training or validation, so that it stays there as others are finished;
    ``val_split``, the fraction of validation cases, is therefore met on average only. Both splits have a case.

    Raises:
        ValueError: fewer than two usable labels. The message names no image.
    """
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    cases: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    files = datastore.datalist()  # first, since a DICOMweb datastore fetches them here
    objects: Mapping[str, Any] = datastore.json()["objects"]
    finished = [key for key, item in objects.items() if DefaultLabelTag.FINAL.value in item["labels"]]  # as `files`
    for number, (image_id, paths) in enumerate(zip(finished, files, strict=True)):
        label = folder / "labels" / f"{number:04d}-{Path(paths['label']).name}"
        try:
            check_cases([paths])
            shutil.copyfile(paths["label"], label)
            names = _names(datastore.get_label_info(image_id, DefaultLabelTag.FINAL), _drawn(label))
            labels = _classes(names, class_set)
            cases[image_id] = {"image": paths["image"], "label": f"labels/{label.name}", "labels": labels}
        except (ValueError, OSError) as error:
            reason = str(error).replace(paths["image"], "the image").replace(paths["label"], "the label")
            left_out[image_id] = reason.replace(str(label), "the label")
    if len(cases) < 2:
        reasons = f", {len(left_out)} not: {' '.join(sorted(set(left_out.values())))}" if left_out else "."
        raise ValueError(
            "Training needs at least two finished labels, one to learn from and one to check on; "
            f"{len(cases)} can be used{reasons} Finish more images."
        )
    training, validation = _split(list(cases), val_split)
    content = {"training": [cases[key] for key in training], "validation": [cases[key] for key in validation]}
    write_description(content, folder)
    return FinishedLabels(training, validation, left_out)


def _drawn(label: Path) -> list[int]:
    """Voxel values of a label, without 0."""
    values = np.unique(np.asanyarray(check_image(label).dataobj))
    if not np.isin(values, np.arange(256)).all():
        raise ValueError("Label values must be integers of 0..255.")
    if not (drawn := [int(value) for value in values if value]):
        raise ValueError("Nothing is drawn in it.")
    return drawn


def _names(info: Mapping[str, Any], drawn: list[int]) -> dict[int, str]:
    """The name of each drawn value.

    Slicer's ``idx`` counts segments that it does not save (background, scribbles), so that later segments have other
    values. A value that ``idx`` and the order of the entries name differently is refused.
    """
    entries, params = info.get("label_info"), info.get("params")
    if isinstance(entries, list) and entries:
        pairs = [(item.get("idx", item.get("id")), item.get("name")) for item in entries if isinstance(item, Mapping)]
        if max(drawn) <= len(pairs):
            pairs += list(enumerate((name for _, name in pairs), start=1))
    else:
        named = params.get("label_names") if isinstance(params, Mapping) else None
        pairs = [(value, name) for name, value in named.items()] if isinstance(named, Mapping) else []
    if not pairs:
        raise ValueError(
            'It does not say what its values mean: save it with label_info, [{"name": "liver", "idx": 1}, ...].'
        )
    names: dict[int, str] = {}
    for value in drawn:
        found = {name for key, name in pairs if str(key) == str(value)}
        if len(found) != 1 or not isinstance(name := found.pop(), str):
            raise ValueError(
                f"Every drawn value must have one name in label_info; value {value} has {len(found)}. Save it again."
            )
        names[value] = name
    return names


def _classes(names: Mapping[int, str], class_set: ClassSet) -> dict[str, list[str]]:
    """The classes of each value, in the form of dataset.json."""
    indices = {value: class_set.index(name) for value, name in names.items()}
    known = set(indices.values())
    for index in indices.values():
        known -= class_set.wholes[index] if len(class_set.wholes[index]) > 1 else set()
    return {
        str(value): [class_set[member].name for member in sorted(known & {index, *wholes_of(index, class_set)})]
        for value, index in indices.items()
    }


def _split(ids: list[str], val_split: float) -> tuple[list[str], list[str]]:
    """Image ids for training and for validation, at least one each."""
    fractions = {key: int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64 for key in ids}
    ordered = sorted(ids, key=lambda key: fractions[key])
    count = min(max(sum(fraction < val_split for fraction in fractions.values()), 1), len(ids) - 1)
    return sorted(ordered[count:]), sorted(ordered[:count])
