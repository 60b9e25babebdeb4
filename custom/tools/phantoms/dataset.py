"""A data set folder of phantoms with its `dataset.json`."""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from custom.datasets.list_files import write_description
from custom.tools.phantoms.scene import ANATOMY_VERSION, LABELS, make_phantom
from custom.utils.files import atomic_write

ORIGIN = "synthetic abdominal CT drawn by custom."  #: begins the description, in earlier versions too


def write_phantoms(
    output_dir: str | os.PathLike[str],
    *,
    splits: Mapping[str, int],
    seed: int = 0,
    spacing: tuple[float, float, float] = (3.0, 3.0, 3.0),
    classes: Collection[str] | None = None,
    overwrite: bool = False,
    on_case: Callable[[int], None] | None = None,
) -> Path:
    """Write phantoms `seed`, `seed + 1`, ... as NIfTI with a data list, and return the path of `dataset.json`.

    Existing phantoms of the same seed, spacing and version are kept, so that an interrupted call can be repeated. Files
    are written atomically and `dataset.json` last: where it exists, the data set is complete.

    Args:
        output_dir: Receives `images/phantom_0000.nii.gz` (int16, HU), `labels/phantom_0000.nii.gz` (uint8, keys of
            `LABELS`) and `dataset.json`.
        splits: Cases per list of `dataset.json`, in order, e.g. {"training": 8, "validation": 2, "test": 2}.
        seed: Seed of the first phantom.
        spacing: Voxel size (H, W, D) in mm.
        classes: Names of the classes that `dataset.json` declares as labelled; None means all.
        overwrite: Replace files of other seeds, spacings or versions, which are otherwise refused.
        on_case: Called with each case number once its files are written.
    """
    if min(splits.values(), default=0) < 0 or sum(splits.values()) < 1:
        raise ValueError(f"splits must be counts of cases, at least one in all, not {dict(splits)}")
    root = Path(output_dir)
    numbers = range(sum(splits.values()))
    cases = [{kind: f"{kind}s/phantom_{case:04d}.nii.gz" for kind in ("image", "label")} for case in numbers]
    texts = [f"phantom seed {seed + case} version {ANATOMY_VERSION}" for case in numbers]
    kept = [
        [_is_current(root / name, text, spacing, overwrite) for name in names.values()]
        for names, text in zip(cases, texts, strict=True)
    ]
    file = root / "dataset.json"
    if not overwrite and file.is_file() and f'"description": "{ORIGIN}' not in file.read_text("utf-8", "replace"):
        raise ValueError(
            f"{file} describes other data than phantoms, and is not replaced: choose an empty output_dir, or "
            "replace it with overwrite=True"
        )
    if not all(map(all, kept)):
        file.unlink(missing_ok=True)
    for case, names in enumerate(cases):
        if not all(kept[case]):
            phantom = make_phantom(seed + case, spacing=spacing)
            _write_nifti(root / names["image"], phantom.image, phantom.affine, texts[case])
            _write_nifti(root / names["label"], phantom.label, phantom.affine, texts[case])
        if on_case is not None:
            on_case(case)
    listed = iter(cases)
    content = {
        "name": "phantom",
        "description": f"{ORIGIN}tools.phantoms.scene (not patients)",
        "seed": seed,
        "spacing": list(spacing),
        "labels": {
            str(value): [name for name in names if classes is None or name in classes]
            for value, names in LABELS.items()
        },
        **{name: [next(listed) for _ in range(number)] for name, number in splits.items()},
    }
    return write_description(content, root)


def _is_current(path: Path, description: str, spacing: tuple[float, float, float], overwrite: bool) -> bool:
    """Whether the file is the described phantom; another one is refused unless it may be replaced."""
    if not path.exists():
        return False
    header = nib.nifti1.load(path).header
    found = bytes(header["descrip"].item()).decode(errors="replace")
    same = found == description and np.allclose(header.get_zooms(), spacing)
    if not same and not overwrite:
        raise ValueError(
            f"{path} must be '{description}' at {tuple(spacing)} mm, not '{found}' at {header.get_zooms()} mm: "
            "choose an empty output_dir, or replace it with overwrite=True"
        )
    return same


def _write_nifti(path: Path, voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64], description: str) -> None:
    image = nib.nifti1.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header["descrip"] = description
    with atomic_write(path) as temporary:
        nib.loadsave.save(image, temporary)
