"""Read and check the label maps that clients send, on the grid of their image."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813

from custom.anatomy.class_set import ClassSet, fold
from custom.imageio.checks import check_image
from custom.imageio.metaimage import itk_affine
from custom.imageio.nifti import onto_grid
from custom.imageio.readers import read_voxels
from lib.schemas import CONTROL

Values: TypeAlias = npt.NDArray[np.uint8]


def read_label(path: str | Path, *, like: nib.Nifti1Image) -> Values:
    """Read a label map (H, W, D), NIfTI or NRRD, onto the grid of its image.

    It must have the voxels of its image ``like``; its axes may be in another order. The suffix gives the format.

    Raises:
        ValueError: not readable; on another grid; values that are not whole numbers in 0..255.
    """
    path = Path(path)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        values, affine = _read_nifti(path, like)
    elif path.suffix.lower() == ".nrrd":
        values, affine = _read_nrrd(path, like)
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
    return onto_grid(values.astype(np.uint8), affine, shape=like.shape, to_affine=like.affine)


def _read_nifti(path: Path, like: nib.Nifti1Image) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    label = check_image(path)
    _require_same_voxels(label.shape, label.affine, like)
    try:
        return read_voxels(label), label.affine
    except ValueError as error:
        raise ValueError("The label map is damaged or cut short. Send it again.") from error


def _read_nrrd(path: Path, like: nib.Nifti1Image) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
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
        return sitk.GetArrayFromImage(reader.Execute()).transpose(), affine
    except RuntimeError as error:
        raise ValueError("The label map cannot be read as NRRD, or is cut short. Send it again.") from error


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


def class_named(name: str, class_set: ClassSet) -> int:
    """The class (1-based) that a segment's name stands for, in any spelling that the class set knows.

    Raises:
        ValueError: it knows none.
    """
    plain = name.replace("_", " ")
    members = class_set.aliases.get(fold(plain), ())
    return members[0] if len(members) == 1 else class_set.index(plain)


def wholes_of(index: int, class_set: ClassSet) -> set[int]:
    """The classes that contain a class, directly or not."""
    direct = set(class_set.wholes[index])
    return direct.union(*(wholes_of(whole, class_set) for whole in direct))


def is_part(name: str, whole: str, *, class_set: ClassSet) -> bool:
    """Whether one structure is part of another, as a tumour of its organ; False where the class set lacks a name."""
    try:
        return class_named(whole, class_set) in wholes_of(class_named(name, class_set), class_set)
    except ValueError:
        return False


def check_names(label_info: Any, label: Values) -> list[dict[str, Any]]:
    """Read the names of the values of a label map, as a list of ``{"name": ..., "idx": value}``.

    Args:
        label_info: the same, perhaps with ``id`` for ``idx`` and other entries; None if the values have no names.
        label: the label map; without a name one of its values might come to bear another structure's.

    Raises:
        ValueError: another form, a value named twice, or some values of the label map without a name.
    """
    names: dict[int, str] = {}
    for item in label_info or []:
        entry: Any = item if isinstance(item, dict) else {}
        name, value = entry.get("name"), entry.get("idx", entry.get("id"))
        is_text = isinstance(name, str) and name.strip() and len(name) <= 128 and not CONTROL.search(name)
        if not (is_text and type(value) is int and 1 <= value <= 255):
            raise ValueError(
                'label_info must be a list of {"name": text of at most 128 characters, "idx": voxel value in 1..255}, '
                f"not {item!r:.200}."
            )
        if value in names:
            raise ValueError(f"label_info must name each voxel value once; {value} is {names[value]!r} and {name!r}.")
        names[value] = name
    nameless = sorted(set(np.unique(label).tolist()) - {0, *names})
    if names and nameless:
        raise ValueError(
            f"label_info must name every value of the label map; {', '.join(map(str, nameless[:10]))} "
            f"{'is' if len(nameless) == 1 else 'are'} not among {sorted(names)}. "
            'Send {"name": ..., "idx": voxel value} for each segment.'
        )
    return [{"name": name, "idx": value} for value, name in names.items()]
