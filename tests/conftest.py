"""Shared fixtures: small data and small real networks."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom.anatomy import ClassSet, load_class_set
from custom.phantom import make_phantom

#: Raw values kept in the small data set; value 27 is tumour and liver.
SMALL_LABELS = {"1": "spleen", "2": "right kidney", "3": "left kidney", "6": "liver", "27": ["liver tumor", "liver"]}


@pytest.fixture(scope="session")
def class_set() -> ClassSet:
    return load_class_set()


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms at 7 mm (one 64-voxel window each) labelled for five classes; the second is validation and test."""
    folder = tmp_path_factory.mktemp("phantoms")
    cases = []
    for seed in (0, 1):
        phantom = make_phantom(seed, spacing=(7.0, 7.0, 7.0))
        label = np.where(np.isin(phantom.label, [int(value) for value in SMALL_LABELS]), phantom.label, 0)
        for kind, array in (("image", phantom.image.astype(np.int16)), ("label", label.astype(np.uint8))):
            nib.save(nib.Nifti1Image(array, phantom.affine), folder / f"{kind}_{seed}.nii.gz")
        cases.append({"image": f"image_{seed}.nii.gz", "label": f"label_{seed}.nii.gz"})
    content = {"labels": SMALL_LABELS, "training": cases[:1], "validation": cases[1:], "test": cases[1:]}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
