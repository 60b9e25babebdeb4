"""What real series are like: lost and foreign files, mixed slices, rounded numbers, all ways to store pixels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("gdcm", reason="the extra 'dicom' is not installed")

from pydicom.dataelem import RawDataElement  # noqa: E402
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402

from custom.anatomy.class_set import ClassSet  # noqa: E402
from custom.datasets.image_paths import list_images  # noqa: E402
from custom.imageio.dicom_series import read_pixels, read_series  # noqa: E402
from custom.imageio.nifti import as_nifti  # noqa: E402
from custom.outputs.formats import check_formats, write_dicom  # noqa: E402
from tests.helpers.dicom_series import change_slice, write_series  # noqa: E402

STEP = 5.0


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, npt.NDArray[np.int16]]:
    """A series of 12 slices of 8 x 6 pixels, and its voxels (columns, rows, slices) in HU."""
    folder = tmp_path_factory.mktemp("written")
    voxels = np.random.default_rng(0).integers(-1000, 1000, (8, 6, 12)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-0.8, -0.7, STEP, 1])), folder / "ct.nii.gz")
    write_series(folder / "ct.nii.gz", folder / "series")
    return folder / "series", voxels


@pytest.fixture
def series(written: tuple[Path, npt.NDArray[np.int16]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[0], tmp_path / "series"))


@pytest.fixture
def voxels(written: tuple[Path, npt.NDArray[np.int16]]) -> npt.NDArray[np.int16]:
    return written[1]


def files_of(series: Path) -> list[Path]:
    return sorted(series.glob("[0-9]*.dcm"))


def rewrite(file: Path, edit: Callable[[Any], object]) -> None:
    dataset = pydicom.dcmread(file)
    edit(dataset)
    dataset.save_as(file)


LOST: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut in the preamble": lambda file: file.write_bytes(file.read_bytes()[:100]),
    "cut in the header": lambda file: file.write_bytes(file.read_bytes()[:600]),
    "cut after the size": lambda file: rewrite(file, lambda d: d.__delitem__("ImagePositionPatient")),
    "a page of a server": lambda file: file.write_text("<html>404</html>"),
    "a link to nowhere": lambda file: link_to_nowhere(file),
}


def link_to_nowhere(file: Path) -> None:
    file.unlink()
    file.symlink_to("/nowhere/slice.dcm")


@pytest.mark.parametrize("where", [0, 5, -1])
@pytest.mark.parametrize("damage", LOST)
def test_a_slice_that_cannot_be_read_is_named(series: Path, damage: str, where: int) -> None:
    file = files_of(series)[where]
    LOST[damage](file)
    with pytest.raises(ValueError, match=file.name.replace(".", r"\.")):
        read_series(series)


def test_lost_slices_are_known_by_the_names_of_the_others(series: Path) -> None:
    for number, file in enumerate(files_of(series)):
        file.rename(series / f"IM{number}")
    (series / "IM11").write_bytes(b"")
    (series / "README").write_text("from the archive")
    with pytest.raises(ValueError, match=r"1 files of .* are not: IM11 \(empty\)"):
        read_series(series)


def test_pixels_that_end_early_are_refused(series: Path) -> None:
    file = files_of(series)[-1]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"The pixels of .*0011\.dcm cannot be read"):
        read_pixels(read_series(series))


def test_files_without_a_preamble_are_slices(series: Path, voxels: npt.NDArray[np.int16]) -> None:
    for file in files_of(series):
        file.write_bytes(file.read_bytes()[132:])
    assert list_images(series) == [str(series)]
    np.testing.assert_array_equal(read_pixels(read_series(series)), voxels)


def other_object(folder: Path, sop_class: str, modality: str) -> None:
    """A DICOM object that is no image."""
    folder.mkdir(exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = sop_class, meta.MediaStorageSOPInstanceUID, modality
    dataset.SeriesInstanceUID = generate_uid()
    dataset.save_as(folder / f"{modality}.dcm", write_like_original=False)


def test_other_objects_and_files_make_no_series_and_hide_none(series: Path, voxels: npt.NDArray[np.int16]) -> None:
    for folder in (series, series.parent):
        other_object(folder, "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT")
        other_object(folder, "1.2.840.10008.5.1.4.1.1.88.22", "SR")
        (folder / "LICENSE.txt").write_text("text")
        (folder / "._0001.dcm").write_bytes(b"\0\5\x16\7")
    np.testing.assert_array_equal(read_pixels(read_series(series)), voxels)
    assert list_images(series.parent) == [str(series)], "the folder above holds no slice"


@pytest.mark.parametrize("key", ["PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "Modality"])
def test_slices_of_two_origins_are_no_volume(series: Path, key: str) -> None:
    for file in files_of(series)[7:]:
        change_slice(file, **{key: "PT" if key == "Modality" else "9.9.9"})
    with pytest.raises(ValueError, match=rf"0006\.dcm and 0011\.dcm differ in their {key}") as refused:
        read_series(series)
    assert "PHANTOM" not in str(refused.value), "no patient in a log"


def test_stored_pixels_are_only_rescaled(series: Path, voxels: npt.NDArray[np.int16]) -> None:
    """Mirrored display, unsigned, with twelve bits, with an overlay in the unused ones, without a slope, by a table."""

    def twelve_bits(d: Any) -> None:
        d.BitsStored, d.HighBit = 12, 11
        d.PixelData = (np.frombuffer(d.PixelData, "<u2") & 0xFFF).tobytes()

    def with_overlay(d: Any) -> None:
        twelve_bits(d)
        d.PixelData = (np.frombuffer(d.PixelData, "<u2") | 0xA000).tobytes()

    def unsigned(d: Any) -> None:
        d.PixelData = (np.frombuffer(d.PixelData, "<i2") + 1024).astype("<u2").tobytes()
        d.PixelRepresentation, d.RescaleIntercept = 0, -1024

    def without_slope(d: Any) -> None:
        unsigned(d)
        del d.RescaleSlope

    def by_a_table(d: Any) -> None:
        unsigned(d)
        del d.RescaleSlope, d.RescaleIntercept, d.RescaleType
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [2048, 0, 16])
        table.ModalityLUTType = "HU"
        table.add_new("LUTData", "OW", (np.arange(2048) - 1024).astype("<i2").tobytes())
        d.ModalityLUTSequence = [table]

    def mirrored(d: Any) -> None:
        d.PhotometricInterpretation = "MONOCHROME1"

    edits = [mirrored, twelve_bits, with_overlay, unsigned, without_slope, by_a_table]
    for number, file in enumerate(files_of(series)):
        rewrite(file, edits[number % len(edits)])
    np.testing.assert_array_equal(read_pixels(read_series(series)), voxels)


def test_a_slope_of_zero_and_colours_are_refused(series: Path) -> None:
    change_slice(files_of(series)[3], RescaleSlope=0)
    with pytest.raises(ValueError, match=r"RescaleSlope must not be 0.*0003\.dcm"):
        read_pixels(read_series(series))
    change_slice(files_of(series)[3], SamplesPerPixel=3)
    with pytest.raises(ValueError, match=r"not colours; 0003\.dcm"):
        read_series(series)


def enhance(series: Path, *, positions: bool = True) -> None:
    """Make one enhanced file of the slices: frames in no order, each with a rescale of its own."""
    slices = [pydicom.dcmread(file) for file in files_of(series)]
    first = slices[0]
    enhanced = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    enhanced.is_little_endian, enhanced.is_implicit_VR = True, False
    enhanced.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    gone = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")
    for element in first:
        if element.keyword not in (*gone, "PixelData"):
            enhanced.add(element)
    enhanced.SOPClassUID = enhanced.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    enhanced.file_meta.MediaStorageSOPInstanceUID = enhanced.SOPInstanceUID
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, orientation.ImageOrientationPatient = first.PixelSpacing, first.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    frames, pixels = [], []
    for number in np.random.default_rng(1).permutation(len(slices)):
        frame, position, rescale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = slices[number].ImagePositionPatient
        rescale.RescaleSlope, rescale.RescaleIntercept = 1, -int(number)
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [rescale]
        frames.append(frame)
        pixels.append((slices[number].pixel_array + number).astype("<i2"))
    enhanced.NumberOfFrames, enhanced.PixelData = len(frames), np.stack(pixels).tobytes()
    if positions:
        enhanced.SharedFunctionalGroupsSequence, enhanced.PerFrameFunctionalGroupsSequence = [shared], frames
    for file in files_of(series):
        file.unlink()
    enhanced.save_as(series / "1.dcm", write_like_original=False)


def test_the_frames_of_an_enhanced_file_are_slices(series: Path, voxels: npt.NDArray[np.int16]) -> None:
    classic = read_series(series)
    enhance(series)
    enhanced = read_series(series)
    np.testing.assert_allclose(enhanced.affine, classic.affine, atol=1e-6)
    np.testing.assert_array_equal(read_pixels(enhanced), voxels)
    with pytest.raises(ValueError, match=r"--formats dicom_seg needs .* one slice in a file"):
        check_formats("dicom_seg", [series])


def test_frames_without_positions_are_refused(series: Path) -> None:
    enhance(series, positions=False)
    with pytest.raises(ValueError, match=r"1\.dcm holds 12 without one"):
        read_series(series)


def place(series: Path, step: float, decimals: int, *, tilt: float = 0.0, jitter: float = 0.0) -> None:
    for number, file in enumerate(files_of(series)):
        shifted = (number == 6) * jitter
        position = [0.123, number * step * np.tan(np.radians(tilt)), -97.77 + number * step + shifted]
        change_slice(file, ImagePositionPatient=[round(value, decimals) for value in position])


@pytest.mark.parametrize(("step", "decimals"), [(0.625, 1), (0.33, 1), (0.25, 1), (4.7, 0), (0.75, 2), (1.25, 6)])
def test_positions_may_be_rounded(series: Path, step: float, decimals: int) -> None:
    place(series, step, decimals)
    affine = read_series(series).affine
    assert affine[2, 2] == pytest.approx(step, abs=10.0**-decimals / 8)
    assert affine[2, 3] == pytest.approx(-97.77, abs=10.0**-decimals)


@pytest.mark.parametrize(
    ("step", "decimals", "jitter"), [(0.625, 1, 0.3), (0.33, 1, 0.2), (5.0, 0, 2.0), (2.0, 3, 0.3)]
)
def test_what_no_rounding_explains_is_refused(series: Path, step: float, decimals: int, jitter: float) -> None:
    place(series, step, decimals, jitter=jitter)
    with pytest.raises(ValueError, match="must be equally far apart"):
        read_series(series)
    place(series, step, decimals)
    files_of(series)[4].unlink()
    with pytest.raises(ValueError, match="Some are missing"):
        read_series(series)


@pytest.mark.parametrize("decimals", [2, 3, 6])
def test_cosines_may_be_rounded_and_the_axes_are_at_right_angles(series: Path, decimals: int) -> None:
    turn, _ = np.linalg.qr(np.array([[0.97, -0.2, 0.1], [0.2, 0.95, -0.2], [-0.05, 0.2, 0.97]]))
    for number, file in enumerate(files_of(series)):
        position = (turn[:, 2] * np.sign(np.linalg.det(turn)) * STEP * number).round(6)
        cosines = turn[:, :2].T.ravel().round(decimals)
        change_slice(file, ImagePositionPatient=position.tolist(), ImageOrientationPatient=cosines.tolist())
    axes = read_series(series).affine[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(np.abs(np.diag([-1, -1, 1]) @ axes), np.abs(turn), atol=1.5 * 10.0**-decimals)


@pytest.mark.parametrize("one", [1, 1.0])
def test_a_tilted_gantry_is_no_rounding(series: Path, one: float) -> None:
    place(series, STEP, 3, tilt=1.0)
    for file in files_of(series):
        change_slice(file, ImageOrientationPatient=[one, 0 * one, 0 * one, 0 * one, one, 0 * one])
    with pytest.raises(ValueError, match="tilted gantry"):
        read_series(series)


ODD: dict[str, str] = {
    "PatientBirthDate": "1950.12.11",
    "StudyDate": "00/00/0000",
    "StudyTime": "12:00",
    "PatientSex": "male",
    "PatientAge": "60",
    "PatientWeight": "80 kg",
}


def write_raw(file: Path, values: dict[str, str]) -> None:
    """Values as sloppy programs write them, past pydicom's checks."""
    dataset = pydicom.dcmread(file)
    for keyword, value in values.items():
        tag = pydicom.tag.Tag(keyword)
        kind = pydicom.datadict.dictionary_VR(tag)
        content = value.encode().ljust(len(value) + len(value) % 2)
        dataset._dict[tag] = RawDataElement(tag, kind, len(content), content, 0, False, True)
    dataset.save_as(file)


@pytest.mark.parametrize("name", ["dicom_seg", "rtstruct"])
def test_what_is_no_date_is_left_out_of_results(series: Path, tmp_path: Path, class_set: ClassSet, name: str) -> None:
    for file in files_of(series):
        write_raw(file, ODD)
    check_formats(name, [series])
    read = read_series(series)
    mask = np.zeros(read.shape, bool)
    mask[2:5, 2:4, 3:6] = True
    image = as_nifti(mask.astype(np.uint8), read.affine, series)
    assert write_dicom({class_set[6]: mask}, tmp_path, [name], like=image, trained_on="") == {}
    [file] = tmp_path.glob("*.dcm")
    written = pydicom.dcmread(file)
    assert [written.PatientBirthDate, written.StudyDate, written.StudyTime, written.PatientSex] == [""] * 4
    assert (written.PatientID, written.StudyInstanceUID) == ("PHANTOM", read.headers[0].StudyInstanceUID)


def test_references_lead_to_one_slice_each(series: Path) -> None:
    for file in files_of(series)[3:5]:
        change_slice(file, SOPInstanceUID="1.2.3")
    with pytest.raises(ValueError, match="has one SOPInstanceUID for several slices"):
        check_formats("rtstruct", [series])


def test_what_cannot_be_written_is_known_before_the_work(series: Path, tmp_path: Path, class_set: ClassSet) -> None:
    """And, where it is noticed later all the same, costs no other format."""
    for file in files_of(series):
        write_raw(file, {"SOPInstanceUID": "no UID: " + "x" * 80})
    read = read_series(series)
    mask = np.ones(read.shape, bool)
    image = as_nifti(mask.astype(np.uint8), read.affine, series)
    with pytest.raises(ValueError, match="needs slices that can be pointed to"):
        check_formats("dicom_seg", [series])
    failed = write_dicom({class_set[6]: mask}, tmp_path, ["dicom_seg", "rtstruct"], like=image, trained_on="")
    assert set(failed) | {file.name for file in tmp_path.glob("*.dcm")} == {"segmentation.dcm", "rtstruct.dcm"}
