"""Every malformed input ends with a message that teaches, and leaves no file: the real bundle on real files."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from custom.imageio.checks import check_image
from custom.tools.phantoms.scene import make_phantom
from custom.utils.files import save_safetensors

if TYPE_CHECKING:
    from tests.helpers.small_bundle import Bundle, Small

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


def test_a_sound_image_is_segmented(bundle: Bundle, coarse_ct: Path, tmp_path: Path) -> None:
    bundle.infer(coarse_ct, tmp_path, "liver, spleen")
    liver = np.asarray(nib.load(tmp_path / "ct" / "liver.nii.gz").dataobj)
    assert 0.01 < liver.mean() < 0.99


def flipped_bit(image: nib.Nifti1Image, path: Path) -> None:
    content = bytearray(gzip.compress(image.to_bytes(), 0))  # stored, so that only the checksum can tell
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def mirrored(image: nib.Nifti1Image, path: Path) -> None:
    """Its sform has the first axis the other way round, as after half a flip."""
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine @ np.diag([-1, 1, 1, 1]), code=1)
    nib.save(image, path)


def disagreeing(image: nib.Nifti1Image, path: Path, change: npt.ArrayLike, **fields: Any) -> None:
    """Its sform is not its qform."""
    image.set_qform(image.affine, code=1)
    image.set_sform(np.asarray(change) @ image.affine, code=1)
    with_header(image, path, **fields)


MALFORMED: dict[str, tuple[Spoil, str]] = {
    "text": (lambda i, p: p.write_text("no image"), "must be a NIfTI file"),
    "truncated": (lambda i, p: p.write_bytes(gzip.compress(i.to_bytes())[:-2000]), "damaged or cut short"),
    "flipped bit": (flipped_bit, "damaged or cut short"),
    "2D": (lambda i, p: saved(values(i)[..., 9], i.affine, p), r"must be 3D"),
    "4D": (lambda i, p: saved(np.stack([values(i)] * 2, -1), i.affine, p), "take one volume"),
    "NaN": (lambda i, p: with_holes(i, p, np.nan), "1 of .* are NaN or infinite"),
    "infinite": (lambda i, p: with_holes(i, p, -np.inf), "1 of .* are NaN or infinite"),
    "complex": (lambda i, p: saved(values(i).astype(np.complex64), i.affine, p), "must be real numbers"),
    "singular": (lambda i, p: with_header(i, p, sform_code=1, srow_z=0), "must be invertible"),
    "no affine": (lambda i, p: with_header(i, p, sform_code=0, qform_code=0), "left and right are unknown.*set_sform"),
    "mirrored": (mirrored, "mirror each other.*set_qform"),
    "turned by 180 degrees": (lambda i, p: disagreeing(i, p, np.diag([-1, -1, 1, 1])), "apart.*set_qform"),
    "sform steps of the thickness": (lambda i, p: disagreeing(i, p, np.diag([1, 1, 4 / 3, 1])), "corners up to .* mm"),
    "pixdim of another step": (
        lambda i, p: disagreeing(i, p, np.eye(4), qform_code=0, pixdim=[1, 12, 12, 9, 0, 0, 0, 0]),
        "voxel sizes .pixdim. disagree",
    ),
    "micrometres": (lambda i, p: with_header(i, p, xyzt_units=3), "must be the millimetre; .* micron"),
    "metres by unit": (lambda i, p: with_header(i, p, xyzt_units=1), "must be the millimetre; .* meter"),
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


def test_a_small_crop_is_segmented(bundle: Bundle, coarse_ct: Path, tmp_path: Path) -> None:
    """20x20x10 voxels are less than a window."""
    image = nib.load(coarse_ct).slicer[5:25, 1:21, 8:18]
    nib.save(image, tmp_path / "crop.nii.gz")
    bundle.infer(tmp_path / "crop.nii.gz", tmp_path / "out")
    mask = nib.load(tmp_path / "out" / "crop" / "liver.nii.gz")
    assert mask.shape == (20, 20, 10)
    np.testing.assert_array_equal(mask.affine, image.affine)


def test_a_qform_that_is_no_rotation_does_not_matter_beside_a_sform(coarse_ct: Path, tmp_path: Path) -> None:
    with_header(nib.load(coarse_ct), tmp_path / "ct.nii.gz", sform_code=1, qform_code=1, quatern_b=0.9, quatern_c=0.9)
    np.testing.assert_array_equal(check_image(tmp_path / "ct.nii.gz").affine, nib.load(coarse_ct).affine)


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
    assert sorted(path.name for path in out.iterdir()) == ["a", "d", "report.json"]
    for name in ("a", "d"):
        assert (out / name / "labels.nii.gz").is_file()
    listed = [str(three / "a.nii.gz"), str(three / "b.nii.gz")]
    assert refusal != bundle.refusal("inference", image=listed, output_dir=tmp_path / "two", prompt="liver")
    assert (tmp_path / "two" / "a" / "labels.nii.gz").is_file()
    bad = f"[{three / 'b.nii.gz'},{three / 'c.nii.gz'}]"
    refusal = bundle.refusal("inference", image=bad, output_dir=tmp_path / "none", prompt="liver")
    assert "0 of 2" in refusal
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["report.json"]


def test_images_of_one_name_and_missing_images_are_refused(bundle: Bundle, three: Path, tmp_path: Path) -> None:
    (tmp_path / "a.nii").touch()
    pair = f"{tmp_path / 'a.nii'},{shutil.copy(three / 'a.nii.gz', tmp_path)}"
    output = {"output_dir": tmp_path / "out", "prompt": "liver"}
    assert "would be written to folders of one name" in bundle.refusal("inference", image=pair, **output)
    missing = bundle.refusal("inference", image=f"{three / 'a.nii.gz'},{three / 'x.nii.gz'}", **output)
    assert f"There is no image {three / 'x.nii.gz'}" in missing
    assert "There is no image" in bundle.refusal("inference", image=tmp_path / "x.nii.gz", **output)
    assert "must be a NIfTI, NRRD or MetaImage file, a folder" in bundle.refusal("inference", image=7, **output)
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be_written(bundle: Bundle, coarse_ct: Path, tmp_path: Path) -> None:
    """Before any work where that can be seen; on a full disk when it fills, without a partial result, and at once."""
    (tmp_path / "file").write_text("")
    refusal = bundle.refusal("inference", image=coarse_ct, output_dir=tmp_path / "file" / "out", prompt="liver")
    assert "cannot be written: Not a directory" in refusal
    assert "--output_dir" in refusal
    shutil.copy(coarse_ct, tmp_path / "second.nii.gz")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, hard))
    try:
        images = [str(coarse_ct), str(tmp_path / "second.nii.gz")]
        refusal = bundle.refusal("inference", image=images, output_dir=tmp_path / "out", prompt="liver")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"The result of {coarse_ct} could not be written to {tmp_path / 'out'}: File too large." in refusal
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["requests"]
    assert [row["status"] for row in rows] == ["failed", "pending"]
    bundle.run("inference", image=images, output_dir=tmp_path / "out", prompt="liver")
    assert (tmp_path / "out" / "second" / "labels.nii.gz").is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(bundle: Bundle, coarse_ct: Path, tmp_path: Path, small: Small) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        refusal = bundle.refusal("inference", image=coarse_ct, output_dir=tmp_path / "out", prompt="liver")
        assert "could not be written" in refusal
        assert "No space left on device" in refusal
        assert list((tmp_path / "out").iterdir()) == []
        with pytest.raises(OSError, match=r"could not be written.*No space left") as caught:
            save_safetensors(load_file(small.weights), tmp_path / "model.safetensors", metadata={})
        assert caught.value.errno == errno.ENOSPC
        assert not list(tmp_path.glob("*model*"))
        assert not list(tmp_path.glob(".writing*"))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def spoiled_weights(small: Small, path: Path, **entries: Any) -> Path:
    """The weights with other header entries; None removes one."""
    with safe_open(str(small.weights), framework="pt") as file:
        metadata = file.metadata()
    header = json.loads(metadata["header"])
    for key, value in entries.items():
        section = header["settings" if key in header["settings"] else "volume"]
        section[key] = value
        if value is None:
            del section[key]
    save_file(load_file(small.weights), path, metadata | {"header": json.dumps(header)})
    return path


def test_other_weights_are_refused(bundle: Bundle, small: Small, coarse_ct: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"

    def refusal(**overrides: Any) -> str:
        return bundle.refusal("inference", image=coarse_ct, output_dir=tmp_path / "out", prompt="liver", **overrides)

    path.write_text("no weights")
    assert "is not a safetensors file, or it is cut short" in refusal(weights=path)
    path.write_bytes(small.weights.read_bytes()[:100_000])
    assert "is not a safetensors file, or it is cut short" in refusal(weights=path)
    save_file(load_file(small.weights), path)
    assert "not a weights file of this project" in refusal(weights=path)
    assert "header lacks roi_size" in refusal(weights=spoiled_weights(small, path, roi_size=None))
    assert "variant must be one of film, film2, bottleneck, not 'other'" in refusal(
        weights=spoiled_weights(small, path, variant="other")
    )
    assert "another network than their header" in refusal(weights=spoiled_weights(small, path, feature_size=24))
    assert "classes there" in refusal(
        weights=spoiled_weights(small, path, classes=["spleen"], trained_classes=["spleen"])
    )
    state = load_file(small.weights)
    state["out.conv.conv.bias"][3] = torch.nan
    with safe_open(str(small.weights), framework="pt") as file:
        save_file(state, path, file.metadata())
    assert "holds NaN or infinity in 1 tensors: out.conv.conv.bias" in refusal(weights=path)
    assert "train first" in refusal(weights=tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("setting", "value", "advice"),
    [
        ("class_set_file", "hippocampus", "Pass the class set of that training (--class_set_file)"),
        ("network_def::variant", "film2", '--network_def::variant "film"'),
        ("network_def::feature_size", 24, "--feature_size 12"),
        ("network_def::window_size", 7, "--network_def::window_size 4"),
        ("inferer::roi_size", 64, "roi_size must be three multiples of 32"),
        ("inferer::roi_size", [32, 32, 32], "at least one side of 64"),
        ("device", "cuda:77", "--device must be a device of this machine"),
        ("device", "gpu", "--device must be a device of this machine"),
    ],
)
def test_settings_that_do_not_fit(
    bundle: Bundle, coarse_ct: Path, tmp_path: Path, setting: str, value: object, advice: str
) -> None:
    overrides: dict[str, Any] = {"image": coarse_ct, "output_dir": tmp_path / "out", "prompt": "liver", setting: value}
    assert advice in bundle.refusal("inference", **overrides)
    assert not (tmp_path / "out").exists()


Case = Callable[[nib.Nifti1Image, nib.Nifti1Image], tuple[nib.Nifti1Image, nib.Nifti1Image]]
SPOILED: dict[str, tuple[Case, str]] = {
    "value": (
        lambda image, label: (image, like(label, values(label) + 200 * (values(label) > 0))),
        r"label\.nii\.gz: .*dataset\.json.*found 206",
    ),
    "fraction": (lambda image, label: (image, like(label, values(label) / 4)), r"label\.nii\.gz: .*found 1\.5"),
    "shape": (lambda image, label: (image, label.slicer[1:]), r"one grid: .*image\.nii\.gz has shape .*label\.nii\.gz"),
    "affine": (
        lambda image, label: (image, moved(label)),
        r"affines of .*image\.nii\.gz and .*label\.nii\.gz.* 24 mm apart",
    ),
    "unit": (lambda image, label: (like(image, values(image) / 1000), label), r"image\.nii\.gz does not look like"),
}


def like(image: nib.Nifti1Image, array: Any) -> nib.Nifti1Image:
    return nib.Nifti1Image(array, image.affine)


def moved(image: nib.Nifti1Image) -> nib.Nifti1Image:
    affine = image.affine.copy()
    affine[0, 3] += 24
    return nib.Nifti1Image(image.dataobj, affine)


@pytest.mark.parametrize("names", [("train",), ("train", "evaluate")], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", SPOILED)
def test_a_malformed_case_is_refused(bundle: Bundle, tmp_path: Path, names: tuple[str, ...], kind: str) -> None:
    spoil, message = SPOILED[kind]
    phantom = make_phantom(0, spacing=(12.0, 12.0, 12.0))
    label = np.where(phantom.label == 6, phantom.label, 0)
    pair = spoil(nib.Nifti1Image(phantom.image, phantom.affine), nib.Nifti1Image(label, phantom.affine))
    for name, image in zip(("image", "label"), pair, strict=True):
        nib.save(image, tmp_path / f"{name}.nii.gz")
    case = [{"image": "image.nii.gz", "label": "label.nii.gz"}]
    content = {"labels": {"6": "liver"}, "training": case, "validation": case, "test": case}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    settings: dict[str, Any] = {"dataset_dir": tmp_path, "output_dir": tmp_path / "eval"}
    if names == ("train",):
        settings |= {
            "text_encoder": "minilm",
            "feature_size": 12,
            "network_def::window_size": 4,
            "spacing": [12, 12, 12],
        }
        settings |= {"roi_size": [64, 32, 32], "ckpt_dir": tmp_path / "models", "weights": tmp_path / "m.safetensors"}
    refusal = bundle.refusal(*names, **settings)
    assert re.search(message, refusal), refusal
    assert not (tmp_path / "models").exists()
    assert not (tmp_path / "eval" / "scores.json").exists()
