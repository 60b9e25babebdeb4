"""Every malformed input ends with a message that teaches, and leaves no file: the real bundle on real files."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.conftest import Bundle

Spoil = Callable[[nib.Nifti1Image, Path], Any]


def values(image: nib.Nifti1Image) -> Any:
    return np.asarray(image.dataobj).astype(np.float32)


def saved(array: Any, affine: Any, path: Path) -> None:
    nib.save(nib.Nifti1Image(array, affine), path)


def with_header(image: nib.Nifti1Image, path: Path, **fields: Any) -> None:
    """Write header fields that nibabel would mend."""
    content = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(content))


def with_holes(image: nib.Nifti1Image, path: Path, hole: float) -> None:
    array = values(image)
    array[3, 4, 5] = hole
    saved(array, image.affine, path)


def test_a_sound_image_is_answered(bundle: Bundle, coarse_ct: Path, tmp_path: Path) -> None:
    bundle.infer(coarse_ct, tmp_path, "liver, spleen")
    liver = np.asarray(nib.load(tmp_path / "ct" / "liver.nii.gz").dataobj)
    assert 0.01 < liver.mean() < 0.99


def flipped_bit(image: nib.Nifti1Image, path: Path) -> None:
    content = bytearray(gzip.compress(image.to_bytes(), 0))  # stored, so that only the checksum can tell
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


MALFORMED: dict[str, tuple[Spoil, str]] = {
    "text": (lambda i, p: p.write_text("no image"), "must be a NIfTI file"),
    "truncated": (lambda i, p: p.write_bytes(gzip.compress(i.to_bytes())[:-2000]), "damaged or cut short"),
    "flipped bit": (flipped_bit, "damaged or cut short"),
    "2D": (lambda i, p: saved(values(i)[..., 9], i.affine, p), r"must be 3D"),
    "4D": (lambda i, p: saved(np.stack([values(i)] * 2, -1), i.affine, p), "take one volume"),
    "4D of one": (lambda i, p: saved(values(i)[..., None], i.affine, p), "squeeze_image removes"),
    "NaN": (lambda i, p: with_holes(i, p, np.nan), "1 of .* are NaN or infinite"),
    "infinite": (lambda i, p: with_holes(i, p, -np.inf), "1 of .* are NaN or infinite"),
    "complex": (lambda i, p: saved(values(i).astype(np.complex64), i.affine, p), "must be real numbers"),
    "singular": (lambda i, p: with_header(i, p, sform_code=1, srow_z=0), "must be invertible"),
    "no affine": (lambda i, p: with_header(i, p, sform_code=0, qform_code=0), "left and right are unknown.*set_sform"),
    "metres": (lambda i, p: saved(values(i), np.diag([0.012, 0.012, 0.012, 1]), p), "in another unit"),
    "[0, 1]": (lambda i, p: saved((values(i).clip(-175, 250) + 175) / 425, i.affine, p), "range from 0 to 1"),
    "[0, 255]": (lambda i, p: saved((values(i).clip(-175, 250) + 175) * 0.6, i.affine, p), "range from 0 to 255"),
    "no intercept": (lambda i, p: saved(values(i) + 1024, i.affine, p), "does not look like.*HU"),
    "unit variance": (lambda i, p: saved(values(i) / values(i).std(), i.affine, p), "does not look like.*HU"),
    "times ten": (lambda i, p: saved(values(i) * 10, i.affine, p), "outside the plausible range"),
    "constant": (lambda i, p: saved(values(i) * 0, i.affine, p), "shows no structure"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_image_is_refused(bundle: Bundle, coarse_ct: Path, tmp_path: Path, kind: str) -> None:
    spoil, message = MALFORMED[kind]
    path = tmp_path / "bad.nii.gz"
    spoil(nib.load(coarse_ct), path)
    refusal = bundle.refusal("inference", image=path, output_dir=tmp_path / "out", prompt="liver")
    assert str(path) in refusal
    assert re.search(message, refusal), refusal
    assert not (tmp_path / "out").exists()


def test_a_prompt_must_be_given_and_understood(bundle: Bundle, coarse_ct: Path, tmp_path: Path) -> None:
    for prompt, message in (
        (None, "must be a text"),
        ("", "must name a structure"),
        ("the spline", "Nearest names"),
        ("liver, " * 300, "at most 2000"),
        ("li\x07ver", "control characters"),
    ):
        refusal = bundle.refusal("inference", image=coarse_ct, output_dir=tmp_path / "out", prompt=prompt)
        assert message in refusal, prompt
    assert "must be a text" in bundle.refusal("inference", image=coarse_ct, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_small_crop_is_answered(bundle: Bundle, coarse_ct: Path, tmp_path: Path) -> None:
    """20x20x10 voxels are less than a window."""
    image = nib.load(coarse_ct).slicer[5:25, 1:21, 8:18]
    nib.save(image, tmp_path / "crop.nii.gz")
    bundle.infer(tmp_path / "crop.nii.gz", tmp_path / "out")
    mask = nib.load(tmp_path / "out" / "crop" / "liver.nii.gz")
    assert mask.shape == (20, 20, 10)
    np.testing.assert_array_equal(mask.affine, image.affine)


def test_intensities_may_be_vouched_for(bundle: Bundle, coarse_ct: Path, tmp_path: Path) -> None:
    image = nib.load(coarse_ct)
    saved(values(image) + 1024, image.affine, tmp_path / "odd.nii.gz")
    bundle.infer(tmp_path / "odd.nii.gz", tmp_path / "out", check_intensity=False)
    assert (tmp_path / "out" / "odd" / "labels.nii.gz").is_file()


@pytest.fixture
def three(coarse_ct: Path, tmp_path: Path) -> Path:
    """A folder of a good image, one that is cut short, one without header, and a good one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "d"):
        shutil.copy(coarse_ct, folder / f"{name}.nii.gz")
    (folder / "b.nii.gz").write_bytes(coarse_ct.read_bytes()[:-1000])
    (folder / "c.nii.gz").write_text("nothing")
    return folder


def test_bad_images_among_good_ones(bundle: Bundle, three: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refusal = bundle.refusal("inference", image=three, output_dir=out, prompt="liver")
    assert re.fullmatch(r"2 of 4 segmented; b\.nii\.gz: .*cut short.*; c\.nii\.gz: .*must be a NIfTI.*", refusal)
    assert sorted(path.name for path in out.iterdir()) == ["a", "d"]
    for name in ("a", "d"):
        assert (out / name / "labels.nii.gz").is_file()
    listed = [str(three / "a.nii.gz"), str(three / "b.nii.gz")]
    assert refusal != bundle.refusal("inference", image=listed, output_dir=tmp_path / "two", prompt="liver")
    assert (tmp_path / "two" / "a" / "labels.nii.gz").is_file()
    bad = f"[{three / 'b.nii.gz'},{three / 'c.nii.gz'}]"
    refusal = bundle.refusal("inference", image=bad, output_dir=tmp_path / "none", prompt="liver")
    assert "0 of 2" in refusal
    assert not (tmp_path / "none").exists()


def test_images_of_one_name_and_missing_images_are_refused(bundle: Bundle, three: Path, tmp_path: Path) -> None:
    shutil.copytree(three, tmp_path / "more")
    pair = f"{three / 'a.nii.gz'},{tmp_path / 'more' / 'a.nii.gz'}"
    output = {"output_dir": tmp_path / "out", "prompt": "liver"}
    assert "would be answered in one folder a" in bundle.refusal("inference", image=pair, **output)
    missing = bundle.refusal("inference", image=f"{three / 'a.nii.gz'},{three / 'x.nii.gz'}", **output)
    assert f"There is no image {three / 'x.nii.gz'}" in missing
    assert "There is no image" in bundle.refusal("inference", image=tmp_path / "x.nii.gz", **output)
    assert "must be a NIfTI file, a folder" in bundle.refusal("inference", image=7, **output)
    assert not (tmp_path / "out").exists()
