"""A volume is the same as NIfTI, NRRD or DICOM series; one without a known position in space is refused."""

import gzip
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest

from custom.anatomy.class_set import ClassSet
from custom.datasets.image_paths import list_images, output_names
from custom.imageio.checks import check_image, check_images, open_image
from custom.imageio.nifti import onto_grid
from custom.imageio.readers import open_volume, read_voxels
from custom.tools.phantoms.scene import make_phantom
from custom.transforms.load import LoadVolumed
from custom.utils.memory import NotEnoughMemory
from tests.helpers.warm_python import run_python


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> nib.Nifti1Image:
    """An oblique phantom with unequal sides and non-square pixels."""
    phantom = make_phantom(3, spacing=(12.0, 9.0, 11.0))
    affine = phantom.affine.copy()
    c, s = np.cos(0.3), np.sin(0.3)
    affine[:3] = np.array([[c, -s, 0], [s * c, c * c, -s], [s * s, c * s, c]]) @ affine[:3]
    path = tmp_path_factory.mktemp("image") / "ct.nii.gz"
    made = nib.Nifti1Image(np.round(phantom.image).astype(np.int16), affine)
    made.set_qform(affine, code=1)
    nib.save(made, path)
    return nib.load(path)


def source(image: nib.Nifti1Image) -> Path:
    return Path(str(image.get_filename()))


def write_nrrd(image: nib.Nifti1Image, path: Path, *, space: str = "left-posterior-superior", **changes: Any) -> Path:
    flips = {"left-posterior": (-1, -1, 1), "left-anterior": (-1, 1, 1)}.get(space.rpartition("-")[0], (1, 1, 1))
    affine = np.diag([*flips, 1]) @ image.affine
    header = {"space": space, "space directions": affine[:3, :3].T, "space origin": affine[:3, 3], "encoding": "gzip"}
    kept = {key: value for key, value in (header | changes).items() if value is not None}
    nrrd.write(str(path), np.asarray(image.dataobj), kept, detached_header=path.suffix == ".nhdr")
    return path


def assert_same(path: Path, image: nib.Nifti1Image, class_set: ClassSet) -> None:
    opened = open_image(path)
    np.testing.assert_allclose(opened.affine, image.affine, atol=1e-4)
    assert opened.shape == image.shape
    assert opened.get_filename() == str(path)
    np.testing.assert_array_equal(np.asarray(opened.dataobj), np.asarray(image.dataobj))
    loaded = LoadVolumed("image", class_set)({"image": str(path)})["image"]
    np.testing.assert_array_equal(loaded, np.asarray(image.dataobj))
    np.testing.assert_allclose(loaded.affine, image.affine, atol=1e-4)
    assert loaded.meta["filename_or_obj"] == str(path)
    check_images([path], class_set)


@pytest.mark.parametrize(
    "space", ["left-posterior-superior", "right-anterior-superior", "left-anterior-superior", "LPS"]
)
@pytest.mark.parametrize("name", ["ct.nrrd", "ct.nhdr"])
def test_an_nrrd_file_is_the_same_volume(
    image: nib.Nifti1Image, class_set: ClassSet, tmp_path: Path, space: str, name: str
) -> None:
    if space == "LPS":
        path = write_nrrd(image, tmp_path / name)
        content = path.read_bytes()
        path.write_bytes(content.replace(b"left-posterior-superior", b"LPS"))
    else:
        path = write_nrrd(image, tmp_path / name, space=space, **{"space units": ["mm"] * 3})
    assert_same(path, image, class_set)
    assert list_images(tmp_path) == [str(path)]
    assert output_names([path]) == ["ct"]


@pytest.mark.parametrize("compressed", [True, False])
def test_an_nrrd_file_of_another_program_is_the_same_volume(
    image: nib.Nifti1Image, class_set: ClassSet, tmp_path: Path, compressed: bool
) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="the extra 'dicom' is not installed")
    sitk.WriteImage(sitk.ReadImage(str(source(image))), str(tmp_path / "ct.nrrd"), compressed)
    assert_same(tmp_path / "ct.nrrd", image, class_set)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"space": None, "space directions": None, "space origin": None, "spacings": [1, 1, 1]},
            "left and right are unknown",
        ),
        ({"space": "scanner-xyz"}, "here it is scanner-xyz"),
        ({"space origin": None}, "`space origin`"),
        ({"space directions": np.array([[1, 0, 0], [0, 1, 0], [np.nan] * 3])}, "`space directions`"),
        ({"space units": ["m", "m", "m"]}, "must be in mm; its `space units` are m"),
        ({"space directions": np.diag([0.001, 0.001, 0.001])}, "in another unit"),
        ({"space directions": np.diag([1.0, 1.0, 0.0])}, "must be invertible"),
    ],
)
def test_an_nrrd_file_without_a_position_is_refused(
    image: nib.Nifti1Image, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    content = {"space": "left-posterior-superior"} | changes
    if content["space"] is None:
        nrrd.write(str(tmp_path / "ct.nrrd"), np.asarray(image.dataobj), {"spacings": [1, 1, 1]})
    else:
        write_nrrd(image, tmp_path / "ct.nrrd", **content)
    with pytest.raises(ValueError, match=rf"ct\.nrrd.*{message}"):
        open_image(tmp_path / "ct.nrrd")


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_a_truncated_nrrd_file_is_refused(
    image: nib.Nifti1Image, class_set: ClassSet, tmp_path: Path, encoding: str
) -> None:
    path = write_nrrd(image, tmp_path / "ct.nrrd", encoding=encoding)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"ct\.nrrd is damaged or cut short"):
        LoadVolumed("image", class_set)({"image": path})
    path.write_bytes(b"NRRD0004\ntype: sh")
    with pytest.raises(ValueError, match="must be an NRRD file"):
        open_image(path)


def test_an_nrrd_file_of_several_volumes_is_refused(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "ct.nrrd"), np.zeros((2, 3, 4, 5), np.int16))
    with pytest.raises(ValueError, match=r"must be 3D .*\(2, 3, 4, 5\)"):
        open_image(tmp_path / "ct.nrrd")


def test_the_content_says_whether_a_nifti_file_is_compressed(
    image: nib.Nifti1Image, class_set: ClassSet, tmp_path: Path
) -> None:
    packed = source(image).read_bytes()
    for name, content in (("packed.nii", packed), ("plain.nii.gz", gzip.decompress(packed))):
        (tmp_path / name).write_bytes(content)
        assert_same_voxels(tmp_path / name, image, class_set)
    second = nib.Nifti2Image(np.asarray(image.dataobj), image.affine)
    second.set_qform(image.affine, code=1)
    (tmp_path / "second.nii").write_bytes(gzip.compress(second.to_bytes()))
    assert_same_voxels(tmp_path / "second.nii", image, class_set)
    (tmp_path / "packed.nii").write_bytes(packed[:-2000])
    with pytest.raises(ValueError, match=r"packed\.nii is damaged or cut short"):
        LoadVolumed("image", class_set)({"image": tmp_path / "packed.nii"})


def test_nifti_in_two_files_and_with_a_fourth_axis_of_one(
    image: nib.Nifti1Image, class_set: ClassSet, tmp_path: Path
) -> None:
    voxels = np.asarray(image.dataobj)
    pair = nib.Nifti1Pair(voxels, image.affine)
    pair.set_qform(image.affine, code=1)
    nib.save(pair, tmp_path / "ct.hdr")
    assert list_images(tmp_path) == [str(tmp_path / "ct.hdr")]
    assert_same_voxels(tmp_path / "ct.hdr", image, class_set)
    (tmp_path / "ct.img").write_bytes((tmp_path / "ct.img").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"ct\.img is cut short"):
        LoadVolumed("image", class_set)({"image": tmp_path / "ct.hdr"})
    for name in ("one.nii", "one.nii.gz"):
        one = nib.Nifti1Image(voxels[..., None], image.affine)
        one.set_qform(image.affine, code=1)
        nib.save(one, tmp_path / name)
        assert_same_voxels(tmp_path / name, image, class_set)


def assert_same_voxels(path: Path, image: nib.Nifti1Image, class_set: ClassSet) -> None:
    loaded = LoadVolumed("image", class_set)({"image": str(path)})["image"]
    np.testing.assert_array_equal(loaded, np.asarray(image.dataobj))
    np.testing.assert_allclose(loaded.affine, image.affine, atol=1e-4)


@pytest.mark.parametrize("name", ["ct.mha", "ct.mhd"])
def test_a_metaimage_file_is_the_same_volume(
    image: nib.Nifti1Image, class_set: ClassSet, tmp_path: Path, name: str
) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="the extra 'dicom' is not installed")
    sitk.WriteImage(sitk.ReadImage(str(source(image))), str(tmp_path / name), name == "ct.mha")
    assert list_images(tmp_path) == [str(tmp_path / name)]
    assert output_names([tmp_path / name]) == ["ct"]
    assert_same(tmp_path / name, image, class_set)
    content = (tmp_path / name).read_bytes()
    for key in (b"TransformMatrix", b"Offset", b"ElementSpacing"):
        (tmp_path / name).write_bytes(content.replace(key, b"Comment"))
        with pytest.raises(ValueError, match=f"left and right are unknown: .* must have {key.decode()}"):
            open_image(tmp_path / name)
    if name == "ct.mha":
        (tmp_path / name).write_bytes(content[:-2000])
        with pytest.raises(ValueError, match=r"ct\.mha is damaged or cut short"):
            LoadVolumed("image", class_set)({"image": tmp_path / name})


def test_a_segmentation_of_slicer_is_no_image(image: nib.Nifti1Image, tmp_path: Path) -> None:
    for name in ("ct.nrrd", "Segmentation.seg.nrrd"):
        write_nrrd(image, tmp_path / name)
    (tmp_path / "scene.mrml").write_text("<MRML/>")
    assert list_images(tmp_path) == [str(tmp_path / "ct.nrrd")]
    with pytest.raises(ValueError, match="and no segmentation"):
        list_images(tmp_path / "Segmentation.seg.nrrd")


def test_the_modality_of_a_header_is_that_of_the_weights(image: nib.Nifti1Image, tmp_path: Path) -> None:
    files = write_series(image, tmp_path / "series")
    for modality, is_read in (("OT", True), ("", True), ("CT", True), ("MR", False), ("PT", False)):
        _change(files, Modality=modality)
        if is_read:
            open_image(tmp_path / "series", modality="CT")
        else:
            with pytest.raises(ValueError, match=f"must be CT; .* says Modality {modality}"):
                open_image(tmp_path / "series", modality="CT")


def test_a_name_that_is_no_text_is_refused(image: nib.Nifti1Image, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.nii.gz"))
    shutil.copy(source(image), path)
    with pytest.raises(ValueError, match=r"must be UTF-8; that of .*M\\udcfcller"):
        open_image(path)


def test_only_inference_reads_more_than_nifti(image: nib.Nifti1Image, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a NIfTI file"):
        check_image(write_nrrd(image, tmp_path / "ct.nrrd"))


def write_series(image: nib.Nifti1Image, folder: Path, **keywords: Any) -> list[Path]:
    pytest.importorskip("SimpleITK", reason="the extra 'dicom' is not installed")
    pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
    from tests.helpers.dicom_series import write_series as write

    return write(source(image), folder, **keywords)


def axes_of(image: nib.Nifti1Image, axes: str) -> nib.Nifti1Image:
    own, wanted = nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(axes))
    return image.as_reoriented(nib.orientations.ornt_transform(own, wanted))


@pytest.mark.parametrize(("written", "read"), [("LPS", "LPS"), ("LPI", "LPS"), ("RPI", "RPI"), ("PIL", "PIR")])
def test_a_dicom_series_is_the_same_volume(
    image: nib.Nifti1Image, class_set: ClassSet, tmp_path: Path, written: str, read: str
) -> None:
    """Head first in any order of files, feet first, sagittal; all of them oblique."""
    write_series(image, tmp_path / "series", axes=written)
    assert list_images(tmp_path / "series") == [str(tmp_path / "series")]
    assert_same(tmp_path / "series", axes_of(image, read), class_set)


@pytest.mark.parametrize("tool", ["dcmcjpeg", "dcmcjpls", "dcmcrle"])
def test_a_compressed_series_is_the_same_volume(
    image: nib.Nifti1Image, class_set: ClassSet, tmp_path: Path, tool: str
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} (Debian: dcmtk) is not installed")
    for file in write_series(image, tmp_path / "series"):
        subprocess.run([tool, file, file], check=True)
    assert_same(tmp_path / "series", axes_of(image, "LPS"), class_set)


def test_each_slice_is_rescaled_by_its_own_header(image: nib.Nifti1Image, class_set: ClassSet, tmp_path: Path) -> None:
    from tests.helpers.dicom_series import change_slice

    for number, file in enumerate(write_series(image, tmp_path / "series")):
        change_slice(file, RescaleSlope=0.5 if number % 2 else 1, RescaleIntercept=-0.25 if number % 2 else 24)
    values = np.asarray(axes_of(image, "LPS").dataobj).astype(np.float32)
    values[..., ::2] += 24
    values[..., 1::2] = values[..., 1::2] / 2 - 0.25
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "series").dataobj), values)


def test_other_files_in_the_folder_are_skipped(image: nib.Nifti1Image, class_set: ClassSet, tmp_path: Path) -> None:
    """Notes, a preview, and the segmentation and structure set of an earlier run."""
    write_series(image, tmp_path / "series")
    from custom.imageio.dicom_seg import write_dicom_seg
    from custom.imageio.dicom_series import read_series
    from custom.imageio.rtstruct import write_rtstruct

    masks = {class_set[6]: np.asarray(image.dataobj) > 0}
    for write in (write_dicom_seg, write_rtstruct):
        write(
            masks,
            tmp_path / "series" / f"{write.__name__}.dcm",
            affine=image.affine,
            series=read_series(tmp_path / "series"),
            model_name="",
            model_version="",
        )
    (tmp_path / "series" / "0000.txt").write_text("no DICOM")
    (tmp_path / "series" / "picture.jpg").write_bytes(bytes(1000))
    assert_same(tmp_path / "series", axes_of(image, "LPS"), class_set)


def test_a_folder_of_series_is_many_images(image: nib.Nifti1Image, tmp_path: Path) -> None:
    for name in ("b", "a.nii", ".hidden"):
        write_series(image, tmp_path / "many" / name)
    (tmp_path / "many" / "empty").mkdir()
    (tmp_path / "many" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    found = list_images(tmp_path / "many")
    assert [Path(path).name for path in found] == ["a.nii", "b"]
    assert list_images(f"{tmp_path / 'many' / 'b'},{source(image)}") == [
        str(tmp_path / "many" / "b"),
        str(source(image)),
    ]
    shutil.copy(source(image), tmp_path / "many" / "ct.nii.gz")
    assert list_images(tmp_path / "many") == [str(tmp_path / "many" / "ct.nii.gz")]
    with pytest.raises(ValueError, match="the folder that holds its slices"):
        list_images(next((tmp_path / "many" / "b").iterdir()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda files: files[4].unlink(), "must be equally far apart.*Some are missing"),
        (lambda files: shutil.copy(files[4], files[4].with_name("again.dcm")), "missing or duplicate"),
        (lambda files: _change(files[:1], SeriesInstanceUID="1.2.3"), r"holds 2: 1 such as 0000\.dcm, 2\d such as"),
        (lambda files: _tilt(files), r"tilted gantry, by [\d.]+ mm"),
        (lambda files: _keep(files, 1), "at least two slices; .* holds 1"),
        (lambda files: _keep(files, 1, NumberOfFrames=28), "holds 28 without one"),
        (lambda files: _change(files, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "right angles"),
    ],
)  # fmt: skip
def test_a_series_that_is_no_volume_is_refused(
    image: nib.Nifti1Image, tmp_path: Path, damage: Any, message: str
) -> None:
    """From its headers, before any voxel is read."""
    damage(write_series(image, tmp_path / "series"))
    with pytest.raises(ValueError, match=message):
        open_image(tmp_path / "series")


def _change(files: list[Path], **changes: Any) -> None:
    from tests.helpers.dicom_series import change_slice

    for file in files:
        change_slice(file, **changes)


def _keep(files: list[Path], count: int, **changes: Any) -> None:
    for file in files[count:]:
        file.unlink()
    _change(files[:count], **changes)


def _tilt(files: list[Path]) -> None:
    """By a degree."""
    import pydicom

    from tests.helpers.dicom_series import change_slice

    for number, file in enumerate(files):
        header = pydicom.dcmread(file, stop_before_pixels=True)
        down = np.array(header.ImageOrientationPatient[3:], float)
        position = np.array(header.ImagePositionPatient, float) + down * number * 11 * np.tan(np.radians(1))
        change_slice(file, ImagePositionPatient=position.round(6).tolist())


def test_pixels_that_are_cut_short_are_refused(image: nib.Nifti1Image, class_set: ClassSet, tmp_path: Path) -> None:
    file = write_series(image, tmp_path / "series")[3]
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ValueError, match="cannot be read"):
        LoadVolumed("image", class_set)({"image": tmp_path / "series"})


def test_without_the_extra_only_a_series_is_refused(image: nib.Nifti1Image, tmp_path: Path) -> None:
    """In a Python that has none of its packages."""
    write_series(image, tmp_path / "series")
    path = write_nrrd(image, tmp_path / "ct.nrrd")
    program = f"""
import sys
for name in ("pydicom", "highdicom", "SimpleITK"):
    sys.modules[name] = None
from custom.imageio.checks import open_image
from custom.outputs.formats import check_formats
from custom.outputs.result_folder import SaveSegmentationd
open_image({str(path)!r})
for call in (lambda: open_image({str(tmp_path / "series")!r}), lambda: check_formats("rtstruct", [])):
    try:
        call()
    except ValueError as error:
        print(error)
"""
    messages = run_python("-c", program).stdout.splitlines()
    assert len(messages) == 2
    assert messages[0].startswith("Reading the DICOM series ")
    assert messages[1].startswith("--formats rtstruct needs")
    assert all('pip install "deep-film[dicom]"' in line for line in messages)


def test_a_turned_mask_finds_its_series(image: nib.Nifti1Image, tmp_path: Path) -> None:
    write_series(image, tmp_path / "series", axes="RPI")
    opened = open_image(tmp_path / "series")
    values = onto_grid(np.asarray(opened.dataobj), opened.affine, shape=image.shape, to_affine=image.affine)
    np.testing.assert_array_equal(values, np.asarray(image.dataobj))


def test_voxels_without_a_size_are_refused(image: nib.Nifti1Image, tmp_path: Path) -> None:
    """Without an sform, nibabel would take 0 for 1 mm, and the volume of the liver would be wrong."""
    original = gzip.decompress(source(image).read_bytes())
    content = bytearray(original)
    content[254:256] = b"\0\0"  # sform_code
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(gzip.compress(bytes(content)))
    np.testing.assert_allclose(check_image(path).affine, image.affine, atol=1e-4)
    content[80:92] = bytes(12)  # pixdim[1:4]
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(ValueError, match=r"must have voxels of a size, not \[0.0, 0.0, 0.0\] mm"):
        check_image(path)
    path.write_bytes(gzip.compress(original[:80] + bytes(12) + original[92:]))
    np.testing.assert_allclose(check_image(path).affine, image.affine, atol=1e-4)  # by the sform


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_bytes_after_the_voxels_are_a_fault(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ct{suffix}"
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4)), path)
    assert read_voxels(open_volume(path)).shape == (4, 5, 6)
    more = gzip.compress(bytes(10)) if suffix == ".nii.gz" else bytes(10)
    path.write_bytes(path.read_bytes() + more)
    with pytest.raises(ValueError, match="goes on after the voxels that its header announces"):
        read_voxels(open_volume(path))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_more_voxels_than_memory_holds_are_refused_before_they_are_read(tmp_path: Path, suffix: str) -> None:
    path, side = tmp_path / f"ct{suffix}", 30_000
    if suffix.startswith(".nii"):
        header = nib.Nifti1Header()
        header.set_data_dtype(np.float64)
        header.set_data_shape((side, side, side))
        header.set_sform(np.eye(4), 1)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        content = header.binaryblock + bytes(4)
        path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    else:
        lines = {
            ".nrrd": f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
            f"sizes: {side} {side} {side}\n"
            "space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: gzip\nspace origin: (0,0,0)\n\n",
            ".mha": "ObjectType = Image\nNDims = 3\nBinaryData = True\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
            f"Offset = 0 0 0\nElementSpacing = 1 1 1\nDimSize = {side} {side} {side}\nElementType = MET_SHORT\n"
            "ElementDataFile = LOCAL\n",
        }
        path.write_text(lines[suffix])
    with pytest.raises(
        NotEnoughMemory, match=r"GiB of memory for the voxels of .*\(30000, 30000, 30000\).*Crop the image"
    ):
        read_voxels(open_volume(path))
