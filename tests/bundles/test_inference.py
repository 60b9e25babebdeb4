"""What inference segments: the images of a split without labels, and, where wanted, post-processed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cc3d
import nibabel as nib
import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from tests.helpers.small_bundle import Bundle, Small


def test_a_split_without_labels_is_segmented(bundle: Bundle, coarse_ct: Path, tmp_path: Path) -> None:
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
def test_a_result_is_post_processed_where_that_is_wanted(
    bundle: Bundle, small: Small, coarse_ct: Path, tmp_path: Path, postprocess: bool
) -> None:
    weights = str(small.local_weights)  # segments by intensity, in many pieces
    bundle.infer(coarse_ct, tmp_path, "liver", weights=weights, postprocess=postprocess)
    liver = np.asarray(nib.load(tmp_path / "ct" / "liver.nii.gz").dataobj)
    pieces = int(cc3d.connected_components(liver).max())
    assert (pieces == 1) if postprocess else (pieces > 1)


def read(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(nib.load(path).dataobj)


def test_several_prompts_share_one_encoding(
    bundle: Bundle, small: Small, coarse_ct: Path, tmp_path: Path, encoded: list[torch.Size]
) -> None:
    settings = {"image": coarse_ct, "weights": str(small.local_weights), "amp": False}
    alone, together = tmp_path / "alone", tmp_path / "together"
    for prompt in ("liver", "spleen"):
        bundle.run("inference", prompt=prompt, output_dir=alone / prompt, **settings)
    windows = len(encoded) // 2
    assert windows
    bundle.run("inference", prompts=["liver", "spleen"], entropy=True, output_dir=together, **settings)
    assert len(encoded) == 3 * windows
    assert sorted(path.name for path in together.iterdir()) == ["ct_1_liver", "ct_2_spleen", "report.json"]
    for number, name in enumerate(("liver", "spleen"), 1):
        folder, mask = together / f"ct_{number}_{name}", read(alone / name / "ct" / f"{name}.nii.gz")
        assert mask.any()
        assert (read(folder / f"{name}.nii.gz") != mask).mean() < 1e-3  # features were rounded to half precision
        entropy = nib.load(folder / "entropy.nii.gz")
        np.testing.assert_array_equal(entropy.affine, nib.load(coarse_ct).affine)
        values = np.asarray(entropy.dataobj)
        assert values.shape == mask.shape and 0 <= values.min() < 0.5 < values.max() < 1.001
    bundle.run("inference", prompts=["liver", "spleen"], entropy=True, output_dir=together, **settings)
    assert len(encoded) == 3 * windows  # done before
    message = bundle.refusal("inference", prompts=["liver", "spleen"], output_dir=together, **settings)
    assert "ct_1_liver (by other weights, settings or another version)" in message
    bundle.run("inference", prompts=["liver", "spleen"], overwrite=True, output_dir=together, **settings)
    assert not list(together.rglob("entropy.nii.gz"))
