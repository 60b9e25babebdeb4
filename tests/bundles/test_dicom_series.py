"""From a DICOM series through the bundle to DICOM, read back by other programs: the same voxels as the NIfTI masks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jsonschema
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from nibabel.affines import apply_affine
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import custom.outputs.formats
from custom.imageio.checks import open_image
from custom.tools.phantoms.scene import make_phantom

pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("SimpleITK", reason="the extra 'dicom' is not installed")

from tests.helpers.dicom_series import change_slice, write_series

if TYPE_CHECKING:
    from tests.helpers.small_bundle import Bundle, Small

SEGIMAGE = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent)) or shutil.which("segimage2itkimage")
SCHEMA = json.loads(Path(custom.outputs.formats.__file__).with_name("summary.schema.json").read_text())
BOTH = "nifti,dicom_seg,rtstruct"


class Scan(NamedTuple):
    """A phantom as NIfTI and as a DICOM series."""

    nifti: Path
    series: Path


def make_scan(folder: Path, *, spacing: tuple[float, float, float] = (9.0, 11.0, 12.0), **how: Any) -> Scan:
    phantom = make_phantom(0, spacing=spacing)
    affine = phantom.affine.copy()
    if how.pop("oblique", False):
        c, s = np.cos(0.3), np.sin(0.3)
        affine[:3] = np.array([[c, -s, 0], [s * c, c * c, -s], [s * s, c * s, c]]) @ affine[:3]
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.round(phantom.image).astype(np.int16), affine), folder / "ct.nii.gz")
    write_series(folder / "ct.nii.gz", folder / "series", **how)
    return Scan(folder / "ct.nii.gz", folder / "series")


LYING: dict[str, dict[str, Any]] = {
    "axial": {"spacing": (12.0, 12.0, 12.0)},
    "feet first": {"axes": "RPI"},
    "head first in the folder": {"axes": "LPI"},
    "oblique": {"oblique": True},
}


def voxels(path: Path) -> npt.NDArray[np.bool_]:
    return np.asarray(nib.load(path).dataobj) > 0


def onto(image: nib.Nifti1Image, path: Path) -> npt.NDArray[np.bool_]:
    """A mask that a program wrote on whatever grid, on the image's, through mm; between two voxels it fails."""
    read = nib.load(path)
    places = apply_affine(np.linalg.inv(image.affine) @ read.affine, np.argwhere(np.asarray(read.dataobj) > 0))
    assert np.abs(places - places.round()).max(initial=0) < 0.01
    result = np.zeros(image.shape, bool)
    result[tuple(places.round().astype(int).T)] = True
    return result


@pytest.mark.parametrize("name", LYING)
def test_a_series_gets_dicom_results(bundle: Bundle, small: Small, tmp_path: Path, name: str) -> None:
    """By a network that segments by intensity, in many pieces with holes."""
    scan = make_scan(tmp_path / "scan", **LYING[name])
    settings = {"prompt": "liver, spleen", "weights": small.local_weights}
    bundle.infer(scan.series, tmp_path / "out", formats=BOTH, **settings)
    folder, image = tmp_path / "out" / "series", open_image(scan.series)
    masks = ["liver.nii.gz", "spleen.nii.gz"]
    files = sorted([*masks, "labels.nii.gz", "preview.png", "rtstruct.dcm", "segmentation.dcm", "summary.json"])
    assert sorted(path.name for path in folder.iterdir()) == files
    summary = json.loads((folder / "summary.json").read_text())
    jsonschema.Draft7Validator(SCHEMA).validate(summary)
    assert (summary["files"], summary["not_written"], summary["image"]) == (files, {}, str(scan.series))
    for mask in (*masks, "labels.nii.gz"):
        written = nib.load(folder / mask)
        assert written.shape == image.shape
        np.testing.assert_allclose(written.affine, image.affine, atol=1e-4)
        assert int(written.header["sform_code"]) == 1

    bundle.infer(scan.nifti, tmp_path / "out", **settings)
    for mask in masks:  # the image's axes run elsewhere, and so do the network's roundings
        there, here = voxels(tmp_path / "out" / "ct" / mask), onto(nib.load(scan.nifti), folder / mask)
        assert 2 * (here & there).sum() / (here.sum() + there.sum()) > 0.995

    _assert_plastimatch_agrees(folder, scan, masks)
    _assert_dcmqi_agrees(folder, image, masks, tmp_path / "dcmqi")
    if shutil.which("dciodvfy"):
        for file in ("rtstruct.dcm", "segmentation.dcm"):
            said = subprocess.run(["dciodvfy", folder / file], capture_output=True, text=True).stderr
            assert "Error" not in said, said
    missing = [tool for tool in ("plastimatch", "dciodvfy") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"all right, but {' and '.join(missing)} were not there to say so: make test-label installs them")


def _assert_plastimatch_agrees(folder: Path, scan: Scan, masks: list[str]) -> None:
    if not shutil.which("plastimatch"):
        return
    command: list[str | Path] = ["plastimatch", "convert", "--input", folder / "rtstruct.dcm", "--referenced-ct"]
    command += [scan.series, "--output-prefix", scan.nifti.parent / "read", "--prefix-format", "nii.gz"]
    subprocess.run(command, check=True, capture_output=True)
    image = open_image(scan.series)
    for mask in masks:
        assert voxels(folder / mask).any()
        np.testing.assert_array_equal(onto(image, scan.nifti.parent / "read" / mask), voxels(folder / mask))


def _assert_dcmqi_agrees(folder: Path, image: nib.Nifti1Image, masks: list[str], target: Path) -> None:
    if SEGIMAGE is None:
        return
    target.mkdir()
    command: list[str | Path] = [SEGIMAGE, "--inputDICOM", folder / "segmentation.dcm", "--outputDirectory", target]
    subprocess.run([*command, "--outputType", "nii", "--prefix", "seg"], check=True, capture_output=True)
    for number, mask in enumerate(masks, start=1):
        np.testing.assert_array_equal(onto(image, target / f"seg-{number}.nii.gz"), voxels(folder / mask))


def weights_that_find(small: Small, path: Path, *, spleen: bool) -> Path:
    """The small network, which then finds no spleen, or nothing at all."""
    state = load_file(small.weights)
    bias = state["out.conv.conv.bias"]
    bias[: 1 if spleen else None] = -1000
    with safe_open(str(small.weights), framework="pt") as file:
        save_file(state, path, file.metadata())
    return path


def test_what_was_not_found_is_left_out_of_dicom(
    bundle: Bundle, small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import pydicom

    series = make_scan(tmp_path / "scan").series
    for spleen, found in ((True, ["liver"]), (False, [])):
        weights = weights_that_find(small, tmp_path / "none.safetensors", spleen=spleen)
        settings = {"weights": weights, "formats": "[rtstruct,dicom_seg]", "overwrite": True}
        bundle.infer(series, tmp_path / "out", "liver, spleen", **settings)
        folder = tmp_path / "out" / "series"
        summary = json.loads((folder / "summary.json").read_text())
        jsonschema.Draft7Validator(SCHEMA).validate(summary)
        assert summary["found"] == found
        assert "spleen" in summary["not_found"]
        assert sorted(path.name for path in folder.iterdir()) == summary["files"]
        assert summary["labels"] is None
        assert [row["mask"] for row in summary["classes"]] == [None, None]
        if found:
            assert "segmentation.dcm" in summary["files"]
            assert [
                str(roi.ROIName) for roi in pydicom.dcmread(folder / "rtstruct.dcm").StructureSetROISequence
            ] == found
    assert summary["files"] == ["preview.png", "summary.json"]
    assert summary["not_written"] == dict.fromkeys(["segmentation.dcm", "rtstruct.dcm"], "nothing was found")
    assert "Not written of series: segmentation.dcm, since nothing was found." in caplog.text


def test_formats_that_cannot_be_written_are_refused(bundle: Bundle, coarse_ct: Path, tmp_path: Path) -> None:
    output = {"output_dir": tmp_path / "out", "prompt": "liver"}
    unknown: tuple[Any, ...] = ("", "dicom", "nifti,stl", [], 7)
    for wrong in unknown:
        refusal = bundle.refusal("inference", image=coarse_ct, formats=wrong, **output)
        assert "--formats must be one or several of nifti, dicom_seg, rtstruct" in refusal
    refusal = bundle.refusal("inference", image=coarse_ct, formats=["nifti", "rtstruct"], **output)
    assert "--formats rtstruct needs a folder with a DICOM series as image" in refusal
    assert str(coarse_ct) in refusal
    series = make_scan(tmp_path / "scan").series
    change_slice(sorted(series.iterdir())[3], FrameOfReferenceUID="")
    refusal = bundle.refusal("inference", image=series, formats="dicom_seg", **output)
    assert f"{series} has no FrameOfReferenceUID in 0003.dcm" in refusal
    assert not (tmp_path / "out").exists()


def test_a_bad_series_among_good_ones(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_scan(tmp_path / name).series.rename(tmp_path / name / "slices")
        (tmp_path / "many").mkdir(exist_ok=True)
        (tmp_path / name / "slices").rename(tmp_path / "many" / name)
    sorted((tmp_path / "many" / "b").iterdir())[5].unlink()
    refusal = bundle.refusal(
        "inference", image=tmp_path / "many", output_dir=tmp_path / "out", prompt="liver", formats="rtstruct"
    )
    assert refusal.startswith("1 of 2 segmented; b: The slices of a series must be equally far apart")
    assert sorted(path.name for path in (tmp_path / "out" / "a").iterdir()) == [
        "preview.png", "rtstruct.dcm", "summary.json"
    ]  # fmt: skip
