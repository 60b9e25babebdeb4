"""Read and check the label maps that clients send, on the grid of their image."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813

from custom.anatomy.class_set import ClassSet, fold
from custom.imageio.checks import check_image
from custom.imageio.metaimage import itk_affine
from custom.imageio.nifti import onto_grid, read_comment
from custom.imageio.readers import read_voxels
from lib.schemas import CONTROL

Values: TypeAlias = npt.NDArray[np.uint8]

#: How a structure was segmented, in DICOM's terms (Segment Algorithm Type): by a model and not changed, by a model and
#: corrected, or drawn by hand.
ALGORITHM_TYPES = ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")


def read_label(path: str | Path, *, like: nib.Nifti1Image) -> tuple[Values, dict[int, str]]:
    """Read a label map (H, W, D), NIfTI or NRRD, onto the grid of its image, and the names of values in its header.

    It must have the voxels of its image ``like``; its axes may be in another order. The suffix gives the format. Only
    3D Slicer's segmentations (``.seg.nrrd``) and NIfTI files that this app wrote have names.

    Raises:
        ValueError: not readable; on another grid; values that are not whole numbers in 0..255.
    """
    path = Path(path)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        values, affine, names = _read_nifti(path, like)
    elif path.suffix.lower() == ".nrrd":
        values, affine, names = _read_nrrd(path, like)
    else:
        raise ValueError(
            f"A label map must be a .nii.gz, .nii or .nrrd file, not {path.suffix or 'one without suffix'}."
        )
    whole = (values >= 0) & (values <= 255) & (values == np.floor(values))
    if not whole.all():
        wrong = ", ".join(f"{value:g}" for value in np.unique(values[~whole])[:5].tolist())
        raise ValueError(
            f"The values of a label map must be whole numbers in 0..255; this one holds {wrong}. Export segments as a "
            "label map, not as probabilities or as an image."
        )
    return onto_grid(values.astype(np.uint8), affine, shape=like.shape, to_affine=like.affine), names


def embedded_info(path: Path) -> dict[str, Any]:
    """The info that a NIfTI label carries in its header, if this app wrote it."""
    try:
        info = json.loads(read_comment(path) or "{}")
    except Exception:  # nibabel raises all kinds on a damaged file
        return {}
    return info if isinstance(info, dict) else {}


_Read: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[np.float64], dict[int, str]]


def _read_nifti(path: Path, like: nib.Nifti1Image) -> _Read:
    label = check_image(path)
    _require_same_voxels(label.shape, label.affine, like)
    try:
        names = {item["idx"]: item["name"] for item in embedded_info(path).get("label_info", ())}
        return read_voxels(label), label.affine, names
    except ValueError as error:
        raise ValueError("The label map is damaged or cut short. Send it again.") from error


def _read_nrrd(path: Path, like: nib.Nifti1Image) -> _Read:
    _require_attached_voxels(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
            raise ValueError(
                "A label map must have three axes and one value a voxel; this one has "
                f"{reader.GetDimension()} axes and {reader.GetNumberOfComponents()} values: in Slicer, export segments "
                "to a label map rather than saving overlapping segments."
            )
        affine = itk_affine(reader)
        _require_same_voxels(reader.GetSize(), affine, like)
        names = _slicer_names({key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()})
        return sitk.GetArrayFromImage(reader.Execute()).transpose(), affine, names
    except RuntimeError as error:
        raise ValueError("The label map cannot be read as NRRD, or is cut short. Send it again.") from error


def _slicer_names(header: Mapping[str, str]) -> dict[int, str]:
    """Name of each value in the header of a Slicer segmentation (``Segment0_LabelValue``, ``Segment0_Name``, ...)."""
    names: dict[int, str] = {}
    for key, text in header.items():
        if match := re.fullmatch(r"(Segment\d+)_LabelValue", key):
            value, name = int(text), header.get(f"{match[1]}_Name", "")
            if value in names:
                raise ValueError(
                    f"The segments {names[value]!r} and {name!r} of the file share the value {value}: in Slicer, "
                    "export segments to a label map rather than saving overlapping segments."
                )
            names[value] = name
    return names


def _require_same_voxels(shape: Sequence[int], affine: npt.NDArray[np.float64], like: nib.Nifti1Image) -> None:
    """Refuse another grid before its voxels are read."""
    onto_grid(np.broadcast_to(np.uint8(0), shape), affine, shape=like.shape, to_affine=like.affine)


def _require_attached_voxels(path: Path) -> None:
    """Refuse an NRRD header that points to another file, which would be read from this computer."""
    with path.open("rb") as file:
        for line in file:
            if re.search(rb"data\s*file\s*:", line, re.IGNORECASE):
                raise ValueError("An NRRD label map must hold its voxels itself; this one names another file.")
            if not line.strip():
                return


def wholes_of(index: int, class_set: ClassSet) -> set[int]:
    """The classes that contain a class, directly or not."""
    direct = set(class_set.wholes[index])
    return direct.union(*(wholes_of(whole, class_set) for whole in direct))


def is_part(name: str, whole: str, *, class_set: ClassSet) -> bool:
    """Whether one structure is part of another, as a tumour of its organ; False where the class set lacks a name."""
    try:
        return class_set.index(whole) in wholes_of(class_set.index(name), class_set)
    except ValueError:
        return False


def check_names(label_info: Any, label: Values, own: Mapping[int, str] | None = None) -> list[dict[str, Any]]:
    """Read what a request says of the values of a label map, as a list of ``{"name": ..., "idx": value}``.

    Args:
        label_info: the same, perhaps with ``id`` for ``idx``, an ``algorithm_type`` of `ALGORITHM_TYPES`, the ``model``
            that segmented it, and other entries; None if the request names no value.
        label: the label map; without a name one of its values might come to bear another structure's.
        own: the names that the label map's file gives its values. They count: a request of Slicer gives a segment's
            place in the table, not its value.

    Raises:
        ValueError: another form, a value named twice, some values of the label map without a name, or other names than
            those of the file.
    """
    entries: dict[int, dict[str, Any]] = {}
    for item in label_info or []:
        entry: Any = item if isinstance(item, dict) else {}
        name, value = entry.get("name"), entry.get("idx", entry.get("id"))
        if not (_is_text(name) and type(value) is int and 1 <= value <= 255):
            raise ValueError(
                'label_info must be a list of {"name": text of at most 128 characters, "idx": voxel value in 1..255}, '
                f"not {item!r:.200}."
            )
        if value in entries:
            raise ValueError(
                f"label_info must name each voxel value once; {value} is {entries[value]['name']!r} and {name!r}."
            )
        entries[value] = {"name": name, "idx": value} | _origin(entry)
    drawn = set(np.unique(label).tolist()) - {0}
    if own:
        entries = _reconcile(entries, {value: name for value, name in own.items() if _is_text(name)}, drawn)
    nameless = sorted(drawn - entries.keys())
    if entries and nameless:
        raise ValueError(
            f"label_info must name every value of the label map; {', '.join(map(str, nameless[:10]))} "
            f"{'is' if len(nameless) == 1 else 'are'} not among {sorted(entries)}. "
            'Send {"name": ..., "idx": voxel value} for each segment.'
        )
    return list(entries.values())


def _is_text(name: Any) -> bool:
    return isinstance(name, str) and bool(name.strip()) and len(name) <= 128 and not CONTROL.search(name)


def _origin(entry: Mapping[str, Any]) -> dict[str, str]:
    """How a structure was segmented, as far as a request says it."""
    origin = {key: entry[key] for key in ("algorithm_type", "model") if entry.get(key)}
    if origin.get("algorithm_type", ALGORITHM_TYPES[0]) not in ALGORITHM_TYPES or not _is_text(
        origin.get("model", "x")
    ):
        raise ValueError(f"algorithm_type must be one of {', '.join(ALGORITHM_TYPES)}, and model a text.")
    return origin


def _reconcile(
    entries: Mapping[int, dict[str, Any]], own: Mapping[int, str], drawn: set[int]
) -> dict[int, dict[str, Any]]:
    """Entries by the file's own names; refused if the request names other structures than are drawn."""
    requested = {fold(entry["name"]): entry for entry in entries.values()}
    strangers = sorted(own[value] for value in drawn & own.keys() if fold(own[value]) not in requested)
    if requested and strangers:
        raise ValueError(
            f"The label map's own header names {', '.join(map(repr, strangers))}, which label_info does not: it has "
            f"{', '.join(repr(entry['name']) for entry in entries.values())}. Send the names of the file, or none."
        )
    return {value: requested.get(fold(name), {}) | {"name": name, "idx": value} for value, name in own.items()}


class NamedLabel(NamedTuple):
    """A label map (H, W, D) and what is known of its values, as ``check_names`` returns it."""

    values: Values
    entries: list[dict[str, Any]]


def add_to_label(old: NamedLabel, new: NamedLabel, *, class_set: ClassSet) -> NamedLabel:
    """A finished label with the structures of a new one added, or put in place of those of the same name.

    The other structures stay, and so do those that the new label names without drawing them, as Slicer does with all
    that a model knows. Where both claim a voxel it is the new one's, except where the old structure is part of the new
    one (a tumour of its organ).
    """
    drawn = set(np.unique(new.values).tolist())
    replaced = {fold(entry["name"]) for entry in new.entries if entry["idx"] in drawn}
    kept = [entry for entry in old.entries if fold(entry["name"]) not in replaced]
    names = {fold(entry["name"]) for entry in kept}
    new = NamedLabel(new.values, [entry for entry in new.entries if fold(entry["name"]) not in names])
    taken = {entry["idx"] for entry in new.entries}
    free = iter(sorted(set(range(1, 256)) - taken - {entry["idx"] for entry in kept}))
    values, entries = new.values.copy(), list(new.entries)
    for entry in kept:
        index = next(free, None) if entry["idx"] in taken else entry["idx"]
        if index is None:
            raise ValueError("A label map holds at most 255 structures; those of the label saved here make it more.")
        over = [0, *(item["idx"] for item in new.entries if is_part(entry["name"], item["name"], class_set=class_set))]
        values[(old.values == entry["idx"]) & np.isin(new.values, over)] = index
        entries.append(entry | {"idx": index})
    return NamedLabel(values, entries)
