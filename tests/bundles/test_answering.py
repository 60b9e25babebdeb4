"""What inference answers: the images of a split without labels, and, where wanted, post-processed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import cc3d
import nibabel as nib
import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.conftest import Bundle, Small


def test_a_split_without_labels_is_answered(bundle: Bundle, coarse_ct: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    names = ["a.nii.gz", "case_1/imaging.nii.gz", "case_2/imaging.nii.gz"]
    for name in (*names, "labelled.nii.gz"):
        (data / name).parent.mkdir(exist_ok=True)
        shutil.copy(coarse_ct, data / name)
    content = {"labels": {"6": "liver"}, "unlabelled": [{"image": name} for name in names]}
    (data / "dataset.json").write_text(json.dumps(content))
    bundle.run("inference", dataset_dir=data, split="unlabelled", output_dir=out, prompt="liver, spleen")
    assert {path.name for path in out.iterdir()} == {"a", "case_1_imaging", "case_2_imaging", "report.json"}
    mask = nib.load(out / "case_2_imaging" / "spleen.nii.gz")
    np.testing.assert_array_equal(mask.affine, nib.load(coarse_ct).affine)
    message = bundle.refusal("inference", dataset_dir=data, split="test", output_dir=out, prompt="liver")
    assert "the split 'test' lists no cases; splits with cases: unlabelled (3)" in message


@pytest.mark.parametrize("postprocess", [False, True])
def test_an_answer_is_post_processed_where_that_is_wanted(
    bundle: Bundle, small: Small, coarse_ct: Path, tmp_path: Path, postprocess: bool
) -> None:
    weights = str(small.local_weights)  # answers by intensity, in many pieces
    bundle.infer(coarse_ct, tmp_path, "liver", weights=weights, postprocess=postprocess)
    liver = np.asarray(nib.load(tmp_path / "ct" / "liver.nii.gz").dataobj)
    pieces = int(cc3d.connected_components(liver).max())
    assert (pieces == 1) if postprocess else (pieces > 1)
