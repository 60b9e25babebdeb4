"""Structure sets: other programs read the voxels that we wrote, in every orientation of the patient."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
pytest.importorskip("SimpleITK", reason="the extra 'dicom' is not installed")

from custom.anatomy.class_set import AnatomicalClass, ClassSet  # noqa: E402
from custom.imageio.dicom_seg import write_dicom_seg  # noqa: E402
from custom.imageio.dicom_series import read_series  # noqa: E402
from custom.imageio.nifti import onto_grid  # noqa: E402
from custom.imageio.rtstruct import write_rtstruct  # noqa: E402
from custom.tools.phantoms.scene import make_phantom  # noqa: E402
from tests.helpers.dicom_series import change_slice, write_series  # noqa: E402

Mask = npt.NDArray[np.bool_]
SQUARE, OTHER = (5.0, 5.0, 7.0), (6.0, 4.0, 9.0)

#: Rotation of the phantom, directions of columns, rows and files, and size of its voxels, mm.
POSES: dict[str, tuple[tuple[float, float, float], str, tuple[float, float, float]]] = {
    "axial": ((0, 0, 0), "LPS", SQUARE),
    "head first in the folder": ((0, 0, 0), "LPI", SQUARE),
    "feet first": ((0, 0, 0), "RPI", SQUARE),
    "oblique": ((0.3, -0.2, 0.4), "LPS", SQUARE),
    "anisotropic": ((0, 0, 0), "LPS", OTHER),
    "oblique, feet first, anisotropic": ((0.3, -0.2, 0.4), "RPI", OTHER),
}


class Case(NamedTuple):
    """A phantom as NIfTI and as DICOM, and structures in it."""

    image: nib.Nifti1Image
    folder: Path
    masks: dict[AnatomicalClass, Mask]

    def write(self, path: Path, masks: dict[AnatomicalClass, Mask] | None = None, **changes: Any) -> Path:
        keywords = {"affine": self.image.affine, "series": read_series(self.folder)} | changes
        write_rtstruct(masks or self.masks, path, model_name="film_swinunetr", model_version="1.0", **keywords)
        return path

    def on_the_image(self, mask: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> Mask:
        return onto_grid(mask.astype(bool), affine, shape=self.image.shape, to_affine=self.image.affine)


@pytest.fixture(scope="module")
def case_of(tmp_path_factory: pytest.TempPathFactory, class_set: ClassSet) -> Callable[[str], Case]:
    cases: dict[str, Case] = {}

    def make(name: str) -> Case:
        if name not in cases:
            cases[name] = _make(tmp_path_factory.mktemp("case"), class_set, *POSES[name])
        return cases[name]

    return make


def _make(
    folder: Path, class_set: ClassSet, angles: tuple[float, ...], axes: str, spacing: tuple[float, float, float]
) -> Case:
    phantom = make_phantom(3, spacing=spacing)
    side = max(phantom.image.shape[:2])  # square, for rt-utils
    rim = [*((0, side - count) for count in phantom.image.shape[:2]), (0, 0)]
    label = np.pad(phantom.label, rim)
    affine = phantom.affine.copy()
    for axis, angle in enumerate(angles):
        i, j = [(1, 2), (0, 2), (0, 1)][axis]
        turn = np.eye(4)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        affine = turn @ affine
    image = nib.Nifti1Image(np.round(np.pad(phantom.image, rim, constant_values=-1000)).astype(np.int16), affine)
    nib.save(image, folder / "ct.nii.gz")
    write_series(folder / "ct.nii.gz", folder / "series", patient="Müller^Jörg", axes=axes)
    liver = label == 6
    hollow = liver.copy()
    x, y, z = np.argwhere(liver).mean(0).astype(int)
    hollow[x - 3 : x + 3, y - 1 : y + 2, z - 1 : z + 2] = False  # a hole in three slices
    hollow[x, y, z] = True  # and an island in it
    specks = np.zeros_like(liver)
    specks[2, 3, 4] = specks[9, 10, 4] = specks[10, 11, 4] = specks[0, 0, 0] = specks[-1, -1, -1] = True
    noise = np.zeros_like(liver)
    noise[20:50, 20:50, 7] = np.random.default_rng(0).random((30, 30)) < 0.5
    masks = {"liver": hollow, "spleen": label == 1, "aorta": label == 8, "liver tumor": specks, "stomach": noise}
    return Case(image, folder / "series", {class_set[class_set.index(name)]: mask for name, mask in masks.items()})


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
@pytest.mark.parametrize("name", POSES)
def test_both_formats_are_valid_dicom(case_of: Callable[[str], Case], tmp_path: Path, name: str) -> None:
    case = case_of(name)
    case.write(tmp_path / "rtstruct.dcm")
    write_dicom_seg(
        case.masks,
        tmp_path / "segmentation.dcm",
        affine=case.image.affine,
        series=read_series(case.folder),
        model_name="film_swinunetr",
        model_version="1.0",
    )
    for file, kind in (("rtstruct.dcm", "RTStructureSet"), ("segmentation.dcm", "Segmentation")):
        report = subprocess.run(["dciodvfy", tmp_path / file], capture_output=True, text=True).stderr
        assert kind in report
        assert "Error" not in report, report


@pytest.mark.skipif(shutil.which("plastimatch") is None, reason="plastimatch (Debian: plastimatch) is not installed")
@pytest.mark.parametrize("name", POSES)
def test_plastimatch_reads_the_same_voxels(case_of: Callable[[str], Case], tmp_path: Path, name: str) -> None:
    """Every one of them: holes, islands, single voxels, noise."""
    case = case_of(name)
    command: list[str | Path] = ["plastimatch", "convert", "--input", case.write(tmp_path / "rtstruct.dcm")]
    command += ["--referenced-ct", case.folder, "--output-prefix", tmp_path / "read", "--prefix-format", "nii.gz"]
    subprocess.run(command, check=True, capture_output=True)
    assert len(list((tmp_path / "read").iterdir())) == len(case.masks)
    for item, mask in case.masks.items():
        read = nib.load(tmp_path / "read" / f"{item.name}.nii.gz")
        np.testing.assert_array_equal(case.on_the_image(np.asarray(read.dataobj), read.affine), mask, err_msg=item.name)


@pytest.mark.parametrize("name", [name for name, (_, _, spacing) in POSES.items() if spacing == SQUARE])
def test_rt_utils_reads_the_same_voxels(case_of: Callable[[str], Case], tmp_path: Path, name: str) -> None:
    """Square pixels and images only, for it exchanges rows and columns of others."""
    rt_utils = pytest.importorskip("rt_utils", reason="rt-utils is not installed: make test-label")
    case = case_of(name)
    read = rt_utils.RTStructBuilder.create_from(str(case.folder), str(case.write(tmp_path / "rtstruct.dcm")))
    assert read.get_roi_names() == [item.name for item in case.masks]
    affine = read_series(case.folder).affine
    for item, mask in case.masks.items():
        found = read.get_roi_mask_by_name(item.name).transpose(1, 0, 2)
        np.testing.assert_array_equal(case.on_the_image(found, affine), mask, err_msg=item.name)


@pytest.mark.parametrize("name", POSES)
def test_contours_are_in_their_slices(case_of: Callable[[str], Case], tmp_path: Path, name: str) -> None:
    case = case_of(name)
    dataset = pydicom.dcmread(case.write(tmp_path / "rtstruct.dcm"))
    slices = {header.SOPInstanceUID: header for header in read_series(case.folder).headers}
    frame = dataset.ReferencedFrameOfReferenceSequence[0]
    referenced = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert {item.ReferencedSOPInstanceUID for item in referenced.ContourImageSequence} == slices.keys()
    first = next(iter(slices.values()))
    assert referenced.SeriesInstanceUID == first.SeriesInstanceUID != dataset.SeriesInstanceUID
    assert dataset.StudyInstanceUID == first.StudyInstanceUID
    for drawn in dataset.ROIContourSequence:
        for contour in drawn.ContourSequence:
            header = slices[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
            assert len(points) == contour.NumberOfContourPoints >= 3
            normal = np.cross(*np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float))
            assert np.abs((points - np.array(header.ImagePositionPatient, float)) @ normal).max() < 2e-4


def test_it_names_patient_and_structures(case_of: Callable[[str], Case], class_set: ClassSet, tmp_path: Path) -> None:
    case = case_of("axial")
    spleen, liver = class_set[1], class_set[6]
    empty = np.zeros(case.image.shape, bool)
    long = replace(liver, name="Leber\\links\n" + "ä" * 80)
    dataset = pydicom.dcmread(case.write(tmp_path / "rtstruct.dcm", {spleen: empty, long: case.masks[liver]}))
    assert dataset.PatientName == "Müller^Jörg"
    (roi,), (drawn,), (observed,) = (
        dataset[key].value for key in ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence")
    )
    assert roi.ROIName == ("Leber links " + "ä" * 80)[:64]
    assert (roi.ROINumber, roi.ROIGenerationAlgorithm) == (1, "AUTOMATIC")
    assert list(drawn.ROIDisplayColor) == list(liver.color)
    assert observed.RTROIIdentificationCodeSequence[0].CodeValue == liver.snomed.value
    assert observed.RTROIInterpretedType == "ORGAN"
    assert "Research use only" in dataset.SeriesDescription
    with pytest.raises(ValueError, match=r"at least one voxel.*spleen.*Nothing was written"):
        case.write(tmp_path / "none.dcm", {spleen: empty})
    assert not (tmp_path / "none.dcm").exists()


def test_only_uids_and_times_differ_between_two_runs(case_of: Callable[[str], Case], tmp_path: Path) -> None:
    one, two = (pydicom.dcmread(case_of("oblique").write(tmp_path / f"{i}.dcm")) for i in range(2))
    for dataset in (one, two):
        for element in dataset.iterall():
            if element.VR in ("UI", "DA", "TM"):
                element.value = ""
    assert one == two


def test_headers_that_lack_what_they_need_not_have(case_of: Callable[[str], Case], tmp_path: Path) -> None:
    case = case_of("axial")
    folder = Path(shutil.copytree(case.folder, tmp_path / "bare"))
    for file in folder.iterdir():
        change_slice(file, PatientName="", PatientSex="", StudyDate="", PositionReferenceIndicator="", StudyID="")
    dataset = pydicom.dcmread(case.write(tmp_path / "rtstruct.dcm", series=read_series(folder)))
    assert len(dataset.ROIContourSequence) == len(case.masks)


def test_a_mask_of_another_grid_is_refused(case_of: Callable[[str], Case], tmp_path: Path) -> None:
    case = case_of("axial")
    with pytest.raises(ValueError, match="voxels of its image"):
        case.write(tmp_path / "rtstruct.dcm", {item: mask[1:] for item, mask in case.masks.items()})
    assert list(tmp_path.iterdir()) == []
