"""Five data sets as the references have them on disk, drawn with phantoms: their keys, raw values and list files."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import NamedTuple

import cc3d
import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from custom.tools.phantoms.scene import LABELS, Phantom, make_phantom

#: Every way in which an image's axes can lie.
TURNS = [np.array(list(zip(p, f, strict=True))) for p, f in product(permutations(range(3)), product((1, -1), repeat=3))]


class Fake(NamedTuple):
    """A data set: where its files lie, its raw value for each class (a later one over an earlier), what it labels."""

    image: str
    label: str
    values: Mapping[str, int]
    labelled: Collection[str]


FIRST_14 = [names[0] for value, names in LABELS.items() if value <= 14]
LIVER = {"liver": 1, "liver tumor": 2}
KIDNEYS = ["right kidney", "left kidney"]
LUNGS = ["right lung", "left lung"]

#: Typed from the references' table, not read from our catalogue.
FAKES = {
    "01": Fake(
        "01_Multi-Atlas_Labeling/img/img{:04d}.nii.gz",
        "01_Multi-Atlas_Labeling/label/label{:04d}.nii.gz",
        {name: value for value, name in enumerate(FIRST_14, start=1)},
        FIRST_14,
    ),
    "04": Fake("04_LiTS/img/volume-{}.nii.gz", "04_LiTS/label/segmentation-{}.nii.gz", LIVER, list(LIVER)),
    "05": Fake(
        "05_KiTS/img/case_{:05d}/imaging.nii.gz",
        "05_KiTS/img/case_{:05d}/segmentation.nii.gz",
        dict.fromkeys(KIDNEYS, 1) | {"kidney tumor": 2, "kidney cyst": 3},
        [*KIDNEYS, "kidney tumor", "kidney cyst"],
    ),
    "12": Fake(
        "12_CT-ORG/img/volume-{}.nii.gz",
        "12_CT-ORG/label/labels-{}.nii.gz",
        {"liver": 1, "bladder": 2} | dict.fromkeys(LUNGS, 3) | dict.fromkeys(KIDNEYS, 4),
        ["liver", "bladder", *LUNGS, *KIDNEYS],
    ),
    "10_03": Fake(
        "10_Decathlon/Task03_Liver/imagesTr/liver_{}.nii.gz",
        "10_Decathlon/Task03_Liver/labelsTr/liver_{}.nii.gz",
        LIVER,
        list(LIVER),
    ),
}

#: Raw value of bone, which is no class of ours, in CT-ORG.
BONE = 5


def is_part(label: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.bool_]:
    """Voxels of a phantom's label that belong to a class, a tumour's to its organ too."""
    return np.isin(label, [value for value, names in LABELS.items() if name in names])


def raw_label(key: str, phantom: Phantom) -> npt.NDArray[np.uint8]:
    """A phantom's label as the data set would have it."""
    raw = np.zeros(phantom.label.shape, np.uint8)
    if key == "12":
        raw[phantom.image > 300] = BONE
    for name, value in FAKES[key].values.items():
        raw[is_part(phantom.label, name)] = value
    return raw


def parted_lungs(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A phantom's label with lungs that are two: those of phantoms touch behind the spine, as no patient's do."""
    right, left = (is_part(label, name) for name in LUNGS)
    left &= ~ndimage.binary_dilation(right, np.ones((3, 3, 3)))
    kept = [cc3d.largest_k(side, k=1, connectivity=26) > 0 for side in (right, left)]
    lungs = np.logical_or(*(is_part(label, name) for name in LUNGS))
    return np.where(lungs & ~np.logical_or(*kept), 0, label).astype(np.uint8)


class Written(NamedTuple):
    """The phantom behind a file, its axes turned as the file's are."""

    key: str
    label: npt.NDArray[np.uint8]


def write_fakes(root: Path, *, seeds: Iterable[int], spacing: tuple[float, float, float]) -> dict[Path, Written]:
    """Write each phantom in each data set below ``root``, every file in another orientation; truth by image."""
    written = {}
    for number, (key, seed) in enumerate(product(FAKES, seeds)):
        fake, phantom = FAKES[key], make_phantom(seed, spacing=spacing)
        phantom = replace(phantom, label=parted_lungs(phantom.label))
        turn = TURNS[(7 * number + 1) % len(TURNS)]
        image, label, truth = (
            nib.Nifti1Image(voxels, phantom.affine).as_reoriented(turn)
            for voxels in (phantom.image, raw_label(key, phantom), phantom.label)
        )
        paths = [root / pattern.format(seed) for pattern in (fake.image, fake.label)]
        for path, content in zip(paths, (image, label), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(content, path)
        written[paths[0]] = Written(key, np.asarray(truth.dataobj))
    return written


def write_lists(folder: Path, *, name: str, splits: Mapping[str, Iterable[int]]) -> None:
    """Write ``<name>_<ending>.txt`` with each data set's phantoms of these seeds."""
    folder.mkdir(exist_ok=True)
    for ending, seeds in splits.items():
        lines = [f"{fake.image}\t{fake.label}".format(seed, seed) for fake in FAKES.values() for seed in seeds]
        (folder / f"{name}_{ending}.txt").write_text("\n".join(lines) + "\n")
