"""A studies folder of small phantoms, as MONAI Label serves it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monailabel.datastore.local import LocalDatastore

from custom.tools.phantoms.scene import Phantom, make_phantom

Store = TypeVar("Store", bound=LocalDatastore)

SLICER = [{"name": "spleen", "idx": 1}, {"name": "Liver", "idx": 2}]


@lru_cache
def phantom_of(seed: int) -> Phantom:
    """A phantom of 12 mm."""
    return make_phantom(seed, spacing=(12.0, 12.0, 12.0))


def phantom_datastore(folder: Path, *, images: Sequence[int] = ()) -> LocalDatastore:
    """The datastore of a folder, which receives a phantom ``ct<seed>.nii.gz`` of 12 mm for every seed."""
    folder.mkdir(exist_ok=True)
    for seed in images:
        phantom = phantom_of(seed)
        image = nib.Nifti1Image(phantom.image.astype(np.int16), phantom.affine)
        nib.save(image, folder / f"ct{seed}.nii.gz")
    return LocalDatastore(str(folder), extensions=["*.nii.gz", "*.nii"])


@contextmanager
def closing(make: Callable[..., Store]) -> Iterator[Callable[..., Store]]:
    """What makes a datastore; all that it made stop watching their folders at the end."""
    opened: list[Store] = []

    def open_it(*args: Any, **keywords: Any) -> Store:
        opened.append(make(*args, **keywords))
        return opened[-1]

    yield open_it
    for made in opened:
        made._observer.stop()
        made._observer.join()


def drawn(seed: int, values: dict[int, int]) -> nib.Nifti1Image:
    """A label of phantom ``seed``: the phantom's values (indices of classes) under new ones, the rest 0."""
    phantom = phantom_of(seed)
    label: npt.NDArray[np.uint8] = np.zeros(phantom.label.shape, np.uint8)
    for old, new in values.items():
        label[phantom.label == old] = new
    return nib.Nifti1Image(label, phantom.affine)


def finish(datastore: LocalDatastore, image_id: str, label: nib.Nifti1Image, info: dict[str, Any]) -> None:
    """Save a label as the final one of an image, as a client does."""
    path = Path(str(datastore.get_image_uri(image_id))).parent / "upload.nii.gz"
    nib.save(label, path)
    datastore.save_label(image_id, str(path), "final", info)
    path.unlink()


def finish_as_slicer(datastore: LocalDatastore, seed: int, *, liver: bool = True) -> None:
    """Spleen 1 and, if it was drawn, liver 2; the segment is named all the same."""
    values = {1: 1} | ({6: 2, 15: 2, 27: 2} if liver else {})
    finish(datastore, f"ct{seed}", drawn(seed, values), {"label_info": SLICER})
