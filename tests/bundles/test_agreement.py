"""With the same weights, our masks agree with the references' flow of stock MONAI parts in full precision."""

from pathlib import Path

import nibabel as nib
import pytest

from custom.tools.benchmarks.reference_pipeline import agreement
from custom.tools.phantoms.scene import make_phantom
from tests.helpers import ROOT

REAL_CT = ROOT.parent / "shared" / "data" / "ct" / "ct_abdomen_3mm.nii.gz"


@pytest.fixture(scope="module")
def phantom_ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    phantom = make_phantom(9000, spacing=(3.0, 3.0, 3.0))
    path = tmp_path_factory.mktemp("phantom") / "ct.nii.gz"
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), path)
    return path


@pytest.mark.parametrize("source", ["a phantom", "a real CT"])
def test_masks_agree_with_the_references_flow(source: str, phantom_ct: Path) -> None:
    if source == "a real CT" and not REAL_CT.is_file():
        pytest.skip(f"{REAL_CT} is not there")
    rows = agreement(phantom_ct if source == "a phantom" else REAL_CT)
    large = [row for row in rows if row["voxels"] >= 500]
    assert sum(row["precision"] == "float32" for row in large) >= 2
    for row in large:
        assert min(row["working"], row["grid"]) >= (0.995 if row["voxels"] > 5000 else 0.98), row
