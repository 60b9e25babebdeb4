"""DICOM segmentations: other programs read ours, and we read theirs."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'label' is not installed")
pytest.importorskip("highdicom", reason="the extra 'label' is not installed")

import pydicom_seg  # noqa: E402

from custom.anatomy.class_set import AnatomicalClass, ClassSet  # noqa: E402
from custom.imageio.dicom_seg import read_dicom_seg, write_dicom_seg  # noqa: E402
from custom.imageio.dicom_series import read_series, series_to_nifti  # noqa: E402
from custom.tools.phantoms.scene import make_phantom  # noqa: E402
from tests.helpers.dicom_series import write_series  # noqa: E402

Masks = dict[AnatomicalClass, npt.NDArray[np.bool_]]
SEGIMAGE = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent)) or shutil.which("segimage2itkimage")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Case(NamedTuple):
    """A phantom as NIfTI and as DICOM, and the truth."""

    image: nib.Nifti1Image
    label: npt.NDArray[np.uint8]
    folder: Path

    def masks(self, class_set: ClassSet, *names: str) -> Masks:
        return {class_set[i]: self.label == i for i in map(class_set.index, names)}

    def write(self, masks: Masks, path: Path, **changes: Any) -> Path:
        keywords: dict[str, Any] = {
            "affine": self.image.affine,
            "series": read_series(self.folder),
            "model_name": "film_swinunetr",
            "model_version": "1.0",
        }
        write_dicom_seg(masks, path, **keywords | changes)
        return path


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Unequal sides, so that no exchange of axes goes unnoticed."""
    folder = tmp_path_factory.mktemp("case")
    phantom = make_phantom(3, spacing=(6.0, 5.0, 7.0))
    image = nib.Nifti1Image(np.round(phantom.image).astype(np.int16), phantom.affine)
    nib.save(image, folder / "image.nii.gz")
    write_series(folder / "image.nii.gz", folder / "series", patient="Müller^Jörg")
    return Case(image, phantom.label.astype(np.uint8), folder / "series")


@pytest.fixture
def oblique(case: Case, tmp_path: Path) -> Case:
    """The same patient on oblique axes, with slices numbered at random."""
    turn = np.eye(4)
    turn[:3, :3] = _rotation(0.3, 0) @ _rotation(-0.2, 1) @ _rotation(0.4, 2)
    folder = tmp_path / "oblique"
    folder.mkdir()
    numbers = np.random.default_rng(0).permutation(len(list(case.folder.iterdir())))
    for number, file in zip(numbers, sorted(case.folder.iterdir()), strict=True):
        header = pydicom.dcmread(file)
        across, down = np.reshape(header.ImageOrientationPatient, (2, 3))
        header.ImageOrientationPatient = np.concatenate([turn[:3, :3] @ across, turn[:3, :3] @ down]).round(8).tolist()
        header.ImagePositionPatient = (turn[:3, :3] @ np.array(header.ImagePositionPatient)).round(6).tolist()
        header.InstanceNumber = int(number) + 1
        header.save_as(folder / f"{number:04d}.dcm")
    image = nib.Nifti1Image(np.asarray(case.image.dataobj), LPS @ turn @ LPS @ case.image.affine)
    return Case(image, case.label, folder)


def _rotation(angle: float, axis: int) -> npt.NDArray[np.float64]:
    i, j = [(1, 2), (0, 2), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix


def _at(mask: npt.NDArray[Any], affine: npt.NDArray[Any], image: nib.Nifti1Image) -> npt.NDArray[np.bool_]:
    """A mask of any grid on that of the image, voxel by voxel; a voxel between two of the image's fails."""
    positions = nib.affines.apply_affine(np.linalg.inv(image.affine) @ affine, np.argwhere(mask))
    assert np.abs(positions - positions.round()).max() < 0.01
    result = np.zeros(image.shape, bool)
    result[tuple(positions.round().astype(int).T)] = True
    return result


def _with_dcmqi(path: Path, image: nib.Nifti1Image, folder: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    if SEGIMAGE is None:
        pytest.skip("segimage2itkimage of dcmqi is not installed (extra 'label')")
    folder.mkdir()
    command: list[str | Path] = [SEGIMAGE, "--inputDICOM", path, "--outputDirectory", folder]
    command += ["--outputType", "nii", "--prefix", "seg"]
    subprocess.run(command, check=True, capture_output=True)
    for number, (attributes,) in enumerate(json.loads((folder / "seg-meta.json").read_text())["segmentAttributes"], 1):
        found = nib.load(folder / f"seg-{number}.nii.gz")
        yield attributes, _at(np.asarray(found.dataobj) > 0, found.affine, image)


ORGANS = ("spleen", "liver", "left head of femur", "hepatic vessel", "liver tumor", "right kidney")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
def test_it_is_valid_dicom(case: Case, class_set: ClassSet, tmp_path: Path) -> None:
    masks = case.masks(class_set, *ORGANS)
    masks[class_set[27]] = case.label == 6  # a tumour that fills the liver
    path = case.write(masks, tmp_path / "seg.dcm")
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True).stderr
    assert "Segmentation" in said
    assert "Error" not in said


def test_dcmqi_reads_the_same_voxels_names_codes_and_colours(case: Case, class_set: ClassSet, tmp_path: Path) -> None:
    masks = {item: mask for item, mask in case.masks(class_set, *ORGANS).items() if mask.any()}
    path = case.write(masks, tmp_path / "seg.dcm")
    read = list(_with_dcmqi(path, case.image, tmp_path / "dcmqi"))
    for (attributes, voxels), (item, mask) in zip(read, masks.items(), strict=True):
        assert attributes["SegmentLabel"] == item.name
        assert attributes["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == item.snomed.value
        assert attributes["SegmentedPropertyCategoryCodeSequence"]["CodeValue"] == item.category.value
        assert attributes["recommendedDisplayRGBValue"] == pytest.approx(list(item.color), abs=1)
        assert attributes["SegmentAlgorithmName"] == "film_swinunetr"
        assert "Research use only" in attributes["SegmentDescription"]
        assert (voxels == mask).all()
    sides = [
        a["SegmentedPropertyTypeModifierCodeSequence"]["CodeMeaning"] for a, _ in read if "head" in a["SegmentLabel"]
    ]
    assert sides == ["Left"]


def test_pydicom_seg_reads_the_same_voxels(oblique: Case, class_set: ClassSet, tmp_path: Path) -> None:
    masks = oblique.masks(class_set, "spleen", "liver", "aorta")
    read = pydicom_seg.SegmentReader().read(pydicom.dcmread(oblique.write(masks, tmp_path / "seg.dcm")))
    affine = np.eye(4)
    affine[:3, :3] = read.direction * read.spacing
    affine[:3, 3] = read.origin
    for number, (item, mask) in enumerate(masks.items(), start=1):
        assert read.segment_infos[number].SegmentLabel == item.name
        assert (_at(read.segment_data(number).transpose(), LPS @ affine, oblique.image) == mask).all()


def test_an_oblique_series_in_any_order_of_files(oblique: Case, class_set: ClassSet, tmp_path: Path) -> None:
    masks = oblique.masks(class_set, "spleen", "liver", "right kidney")
    path = oblique.write(masks, tmp_path / "seg.dcm")
    for (_, voxels), mask in zip(_with_dcmqi(path, oblique.image, tmp_path / "q"), masks.values(), strict=True):
        assert (voxels == mask).all()
    label, _ = read_dicom_seg(path, like=oblique.image)
    assert all((label == number).sum() == mask.sum() for number, mask in enumerate(masks.values(), start=1))
    assert all(((label == number) == mask).all() for number, mask in enumerate(masks.values(), start=1))


def test_masks_in_another_order_of_axes(case: Case, class_set: ClassSet, tmp_path: Path) -> None:
    turned = nib.Nifti1Image(case.label, case.image.affine).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    label = np.asarray(turned.dataobj)
    path = case.write({class_set[6]: label == 6}, tmp_path / "seg.dcm", affine=turned.affine)
    assert (read_dicom_seg(path, like=case.image)[0] == (case.label == 6)).all()
    assert (read_dicom_seg(path, like=turned)[0] == (label == 6)).all()


def test_what_was_not_found_shifts_no_name(case: Case, class_set: ClassSet, tmp_path: Path) -> None:
    masks = case.masks(class_set, "spleen", "liver", "aorta")
    masks[class_set[6]] = np.zeros_like(masks[class_set[6]])
    path = case.write(masks, tmp_path / "seg.dcm")
    label, names = read_dicom_seg(path, like=case.image)
    assert names == {1: "spleen", 2: "aorta"}
    assert ((label == 2) == (case.label == 8)).all()
    with pytest.raises(ValueError, match=r"at least one voxel.*liver.*Nothing was written"):
        case.write({class_set[6]: masks[class_set[6]]}, tmp_path / "none.dcm")
    assert not (tmp_path / "none.dcm").exists()


def test_overlapping_structures_both_keep_their_voxels(case: Case, class_set: ClassSet, tmp_path: Path) -> None:
    liver = case.label == 6
    tumor = liver & (np.arange(liver.shape[0]) % 2 == 0)[:, None, None]
    path = case.write({class_set[6]: liver, class_set[27]: tumor}, tmp_path / "seg.dcm")
    voxels = [mask for _, mask in _with_dcmqi(path, case.image, tmp_path / "dcmqi")]
    assert (voxels[0] == liver).all()
    assert (voxels[1] == tumor).all()
    label, names = read_dicom_seg(path, like=case.image)
    assert names == {1: "liver", 2: "liver tumor"}
    assert (label == np.where(tumor, 2, liver)).all()


def test_it_names_patient_series_and_slices_and_is_marked_research_only(
    case: Case, class_set: ClassSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masks = {replace(class_set[6], name="Leber\\links\n" + "ä" * 80): case.label == 6}
    dataset = pydicom.dcmread(case.write(masks, tmp_path / "seg.dcm"))
    source = {header.SOPInstanceUID: header for header in read_series(case.folder).headers}
    assert dataset.PatientName == "Müller^Jörg"
    assert dataset.SegmentSequence[0].SegmentLabel == ("Leber links " + "ä" * 80)[:64]
    assert dataset.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    assert "Research use only" in dataset.SeriesDescription
    assert "Research use only" in dataset.ContentDescription
    assert len(dataset.PerFrameFunctionalGroupsSequence) == (case.label == 6).any((0, 1)).sum()
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        referenced = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert position == source[referenced].ImagePositionPatient
    assert "ller" not in caplog.text


def test_only_uids_and_times_differ_between_two_runs(case: Case, class_set: ClassSet, tmp_path: Path) -> None:
    masks = case.masks(class_set, "spleen", "liver")
    one, two = (pydicom.dcmread(case.write(masks, tmp_path / f"{i}.dcm")) for i in range(2))
    for dataset in (one, two):
        for element in dataset.iterall():
            if element.VR in ("UI", "DA", "TM", "DT"):
                element.value = ""
    assert one == two


def test_headers_that_lack_what_they_need_not_have(case: Case, class_set: ClassSet, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "notes.txt").write_text("no DICOM")
    for file in case.folder.iterdir():
        header = pydicom.dcmread(file)
        for key in ("PatientName", "PatientID", "PatientSex", "AccessionNumber", "StudyDate", "SliceThickness"):
            delattr(header, key)
        header.SpacingBetweenSlices = 99.0  # as some scanners write
        header.save_as(folder / file.name)
    path = case.write(case.masks(class_set, "liver"), tmp_path / "seg.dcm", series=read_series(folder))
    assert (read_dicom_seg(path, like=case.image)[0] == (case.label == 6)).all()


@pytest.mark.parametrize("wrong", ["shape", "shifted", "spacing", "mirrored"])
def test_a_mask_of_another_grid_is_refused(case: Case, class_set: ClassSet, tmp_path: Path, wrong: str) -> None:
    mask, affine = case.label == 6, case.image.affine.copy()
    if wrong == "shape":
        mask = mask[:, :, 1:]
    elif wrong == "shifted":
        affine[:3, 3] += 0.2 * np.diag(affine)[:3]
    elif wrong == "spacing":
        affine[2, 2] *= 1.01
    else:
        affine[0] *= -1
    with pytest.raises(ValueError, match=r"voxels of its image.*nearest neighbour"):
        case.write({class_set[6]: mask}, tmp_path / "seg.dcm", affine=affine)
    assert list(tmp_path.iterdir()) == []


def _change(folder: Path, **changes: Any) -> None:
    file = sorted(folder.iterdir())[2]
    header = pydicom.dcmread(file)
    for key, value in changes.items():
        setattr(header, key, value)
    header.save_as(file)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: sorted(folder.iterdir())[3].unlink(), "missing or duplicate"),
        (lambda folder: shutil.copy(sorted(folder.iterdir())[3], folder / "x.dcm"), "missing or duplicate"),
        (lambda folder: _change(folder, SeriesInstanceUID="1.2.3"), "one series in a folder"),
        (lambda folder: _change(folder, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "leave out localizers"),
        (lambda folder: _change(folder, ImagePositionPatient=None), "has no ImagePositionPatient"),
        (lambda folder: _change(folder, NumberOfFrames=20), "holds 20 without one"),
        (lambda folder: [file.write_bytes(b"rubbish") for file in folder.iterdir()], "must be readable; 47 files"),
    ],
)
def test_a_series_that_is_no_volume_is_refused(case: Case, tmp_path: Path, damage: Any, reason: str) -> None:
    folder = Path(shutil.copytree(case.folder, tmp_path / "series"))
    damage(folder)
    with pytest.raises(ValueError, match=reason):
        read_series(folder)


def test_a_series_becomes_nifti_with_its_units_and_position(oblique: Case, tmp_path: Path) -> None:
    series_to_nifti(read_series(oblique.folder), tmp_path / "image.nii.gz")
    made = nib.load(tmp_path / "image.nii.gz")
    values = np.asarray(made.dataobj)
    positions = nib.affines.apply_affine(
        np.linalg.inv(oblique.image.affine) @ made.affine, np.array(list(np.ndindex(values.shape)))
    )
    assert np.abs(positions - positions.round()).max() < 0.01
    there = tuple(positions.round().astype(int).T)
    assert (np.asarray(oblique.image.dataobj)[there] == values.reshape(-1)).all()


def test_a_tilted_gantry_is_refused(case: Case, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(case.folder, tmp_path / "series"))
    for file in folder.iterdir():
        header = pydicom.dcmread(file)
        x, y, z = header.ImagePositionPatient
        header.ImagePositionPatient = [float(x), round(float(y) + 0.2 * float(z), 6), float(z)]
        header.save_as(file)
    with pytest.raises(ValueError, match="tilted gantry"):
        series_to_nifti(read_series(folder), tmp_path / "image.nii.gz")
    assert not (tmp_path / "image.nii.gz").exists()


def test_pixels_that_cannot_be_read_are_refused(case: Case, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(case.folder, tmp_path / "series"))
    file = sorted(folder.iterdir())[2]
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="cannot be read"):
        series_to_nifti(read_series(folder), tmp_path / "image.nii.gz")


@pytest.mark.parametrize(
    "damage", ["text", "a slice", "cut short", "fractional", "undescribed", "resampled", "outside"]
)
def test_what_is_no_segmentation_of_the_image_is_refused(
    case: Case, class_set: ClassSet, tmp_path: Path, damage: str
) -> None:
    path = case.write(case.masks(class_set, "spleen", "liver"), tmp_path / "seg.dcm")
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    match damage:
        case "text":
            path.write_text("not DICOM at all")
        case "a slice":
            path = sorted(case.folder.iterdir())[0]
        case "cut short":
            path.write_bytes(path.read_bytes()[:-5000])
        case "fractional":
            dataset.SegmentationType = "FRACTIONAL"
        case "undescribed":
            del dataset.SegmentSequence[1]
        case "resampled":
            shared.PixelMeasuresSequence[0].SpacingBetweenSlices = 14.0
        case "outside":
            for frame in dataset.PerFrameFunctionalGroupsSequence:
                x, y, z = frame.PlanePositionSequence[0].ImagePositionPatient
                frame.PlanePositionSequence[0].ImagePositionPatient = [x, y, float(z) + 700]
    if damage in ("fractional", "undescribed", "resampled", "outside"):
        dataset.save_as(path)
    with pytest.raises(ValueError, match=r"must be a binary DICOM seg|must describe|must have the voxels"):
        read_dicom_seg(path, like=case.image)


@pytest.mark.skipif(
    SEGIMAGE is None or not Path(SEGIMAGE).with_name("itkimage2segimage").exists(), reason="dcmqi is not installed"
)
def test_a_segmentation_of_another_program_is_read(case: Case, tmp_path: Path) -> None:
    """Of dcmqi, as 3D Slicer writes it: its segments in one file, in the order of a label map."""
    tissue = {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"}
    segments = [
        {
            "labelID": value,
            "SegmentLabel": name,
            "SegmentDescription": name,
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": tissue,
            "SegmentedPropertyTypeCodeSequence": tissue,
            "recommendedDisplayRGBValue": [255, 0, 0],
        }
        for value, name in ((1, "Milz"), (6, "Leber"))
    ]
    label = np.where(np.isin(case.label, [1, 6]), case.label, 0)
    nib.save(nib.Nifti1Image(label, case.image.affine), tmp_path / "label.nii.gz")
    (tmp_path / "meta.json").write_text(json.dumps({"SeriesNumber": "9", "segmentAttributes": [segments]}))
    command: list[str | Path] = [Path(str(SEGIMAGE)).with_name("itkimage2segimage")]
    command += ["--inputImageList", tmp_path / "label.nii.gz"]
    command += ["--inputDICOMDirectory", case.folder, "--inputMetadata", tmp_path / "meta.json"]
    subprocess.run([*command, "--outputDICOM", tmp_path / "seg.dcm"], check=True, capture_output=True)
    read, names = read_dicom_seg(tmp_path / "seg.dcm", like=case.image)
    for number, name in names.items():
        assert ((read == number) == (case.label == {"Milz": 1, "Leber": 6}[name])).all()
    assert sorted(names.values()) == ["Leber", "Milz"]
