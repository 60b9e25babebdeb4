"""DICOM segmentations of a series, written and read (needs the extra ``dicom``)."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import highdicom
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
from highdicom.color import CIELabColor
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import SegmentationStorage

from custom.anatomy.class_set import AnatomicalClass, Code
from custom.imageio.dicom_files import patient_and_study
from custom.imageio.dicom_series import Series
from custom.imageio.nifti import LPS_TO_RAS, onto_grid
from custom.utils.files import atomic_write

logging.getLogger("highdicom").setLevel(logging.WARNING)  # at INFO it logs what it copies, the patient's ID too

RESEARCH_USE = "Research use only"

#: Content Label of a segmentation that a person has approved, corrected or not.
FINISHED = "FINISHED"

#: What a segmentation needs of its slices, besides patient and study.
_OF_A_SLICE = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "PixelSpacing",
    "ImageOrientationPatient", "ImagePositionPatient",
)  # fmt: skip


def write_dicom_seg(
    masks: Mapping[AnatomicalClass, npt.NDArray[np.bool_]],
    path: str | Path,
    *,
    affine: npt.NDArray[np.floating[Any]],
    series: Series,
    model_name: str,
    model_version: str,
    algorithms: Mapping[AnatomicalClass, tuple[str, str]] | None = None,
    trained_on: str = "",
    annotator: str = "",
    finished: bool = False,
) -> None:
    """Write masks as one multi-segment DICOM-SEG, atomically; only UIDs and the time differ between runs.

    Segments are numbered from 1 in the order of ``masks`` without the empty ones, and may overlap.

    Args:
        masks: class (its ``name`` becomes the label) -> (H, W, D).
        affine: from voxel indices to mm (RAS), as in NIfTI.
        series: the DICOM series with the same voxels; its axes may have another order and direction.
        algorithms: how each structure was segmented: the Segment Algorithm Type (AUTOMATIC, SEMIAUTOMATIC after manual
            correction, MANUAL) and the model that did, "" for ``model_name``. By default all are AUTOMATIC.
        trained_on: what the model was trained on, which the descriptions state.
        annotator: the person who answers for the content (Content Creator's Name).
        finished: whether a person has approved it, corrected or not (Content Label `FINISHED`).

    Raises:
        ValueError: all masks empty; masks with other voxels than the series.
    """
    found = [item for item, mask in masks.items() if mask.any()]
    if not found:
        rule = "A DICOM segmentation must have at least one voxel; of the requested structures"
        raise ValueError(f"{rule} ({', '.join(item.name for item in masks)}) none was found. Nothing was written.")
    pixels = np.empty((len(found), *series.shape[::-1]), bool)
    for target, item in zip(pixels, found, strict=True):
        target[:] = onto_grid(masks[item], affine, shape=series.shape, to_affine=series.affine).transpose()
    name, version = clean_text(model_name), clean_text(model_version)
    described = []
    for number, item in enumerate(found, start=1):
        kind, model = (algorithms or {}).get(item, ("AUTOMATIC", ""))
        described.append(_describe(item, number, kind, clean_text(model) or name, version))
        described[-1].SegmentDescription = describe_structure(item, trained_on)
    segmentation = Segmentation(
        source_images=_source_images(series),
        pixel_array=np.moveaxis(pixels, 0, -1),
        segmentation_type="BINARY",
        segment_descriptions=described,
        series_instance_uid=highdicom.UID(),
        series_number=300,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="Deep FiLM",
        manufacturer_model_name=name,
        software_versions=version,
        device_serial_number="0",
        content_label=FINISHED if finished else "SEGMENTATION",
        content_creator_name=clean_text(annotator).replace("^", " ").replace("=", " ") or None,
        content_description=clean_text(f"Trained on {trained_on}") if trained_on else RESEARCH_USE,
        series_description=f"{RESEARCH_USE}: segmentation",
    )
    segmentation.PatientName = patient_and_study(series.headers[0])["PatientName"]
    segmentation.SpecificCharacterSet = "ISO_IR 192"
    with atomic_write(path) as temporary:
        segmentation.save_as(str(temporary), write_like_original=False)


def _source_images(series: Series) -> list[Dataset]:
    """Headers with what highdicom needs and nothing else, without the patient's name, which it would log."""
    shared = patient_and_study(series.headers[0]) | {"PatientName": None}
    spacing = round(float(np.linalg.norm(series.affine[:3, 2])), 6)
    images = []
    for header in series.headers:
        image = Dataset()
        for key, value in (shared | {key: header[key].value for key in _OF_A_SLICE}).items():
            setattr(image, key, value)
        image.SliceThickness = header.get("SliceThickness") or spacing
        image.SpacingBetweenSlices = spacing
        images.append(image)
    return images


def _describe(
    item: AnatomicalClass, number: int, algorithm_type: str, model_name: str, model_version: str
) -> SegmentDescription:
    algorithm = None
    if algorithm_type != "MANUAL":
        family = CodedConcept("123110", "DCM", "Artificial Intelligence")
        algorithm = AlgorithmIdentificationSequence(model_name, family, model_version)
    segment = SegmentDescription(
        segment_number=number,
        segment_label=clean_text(item.name),
        segmented_property_category=concept(item.category),
        segmented_property_type=concept(item.snomed),
        algorithm_type=algorithm_type,
        algorithm_identification=algorithm,
        anatomic_regions=[concept(item.region)] if item.region else None,
    )
    if item.laterality:
        [property_type] = segment.SegmentedPropertyTypeCodeSequence
        property_type.SegmentedPropertyTypeModifierCodeSequence = [concept(item.laterality)]
    segment.RecommendedDisplayCIELabValue = list(CIELabColor(*_to_lab(item.color)).value)
    return segment


def describe_structure(item: AnatomicalClass, trained_on: str) -> str:
    """Description of a structure in a DICOM object."""
    origin = f" Model trained on {trained_on}." if trained_on else ""
    return clean_text(f"{item.name}. {RESEARCH_USE}.{origin}", 1024)


def concept(code: Code) -> CodedConcept:
    """A SNOMED CT code of a class set as an item of a code sequence."""
    return CodedConcept(code.value, "SCT", code.meaning)


def clean_text(text: str, limit: int = 64) -> str:
    """``text`` without backslashes and control characters, which a DICOM string may not have, cut to ``limit``."""
    return " ".join("".join(c if c.isprintable() and c != "\\" else " " for c in text).split())[:limit]


def _to_lab(color: tuple[int, int, int]) -> tuple[float, float, float]:
    """Convert sRGB (0..255) to CIELab with white point D65."""
    scaled = np.array(color) / 255
    linear = np.where(scaled > 0.04045, ((scaled + 0.055) / 1.055) ** 2.4, scaled / 12.92)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / to_xyz.sum(1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return min(116 * y - 16, 100.0), 500 * (x - y), 200 * (y - z)


def read_dicom_seg(
    path: str | Path, *, like: nib.Nifti1Image, is_part: Callable[[str, str], bool] = lambda name, whole: False
) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """Read a binary DICOM-SEG of any program onto the grid of an image.

    Frames are placed by their positions: their order does not matter, and slices may be missing. Returns the label map
    (H, W, D) of segment numbers, and the label of each number. Of two segments that overlap, the part wins over the
    whole: a tumour over its organ, in whatever order they were drawn.

    Args:
        is_part: whether a structure of the first name is part of the second; a segment that lies completely within
            another counts as its part, too.

    Raises:
        ValueError: not a readable binary segmentation; other voxels than those of ``like``; segments that overlap,
            neither being part of the other, which one label map cannot hold.
    """
    try:
        dataset = pydicom.dcmread(path)
        if dataset.SOPClassUID != SegmentationStorage or dataset.SegmentationType != "BINARY":
            raise ValueError(f"SOP class {dataset.SOPClassUID.name}, type {dataset.get('SegmentationType')}")
        names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in dataset.SegmentSequence}
        shared = dataset.SharedFunctionalGroupsSequence[0]
        frames = [_Frame(own, shared) for own in dataset.PerFrameFunctionalGroupsSequence]
        pixels = dataset.pixel_array.reshape(len(frames), dataset.Rows, dataset.Columns)
    except (InvalidDicomError, AttributeError, KeyError, IndexError, TypeError, ValueError, EOFError) as error:
        raise ValueError(f"{path} must be a binary DICOM segmentation, and cannot be read as one: {error}") from error
    if not {frame.segment for frame in frames} <= names.keys() <= set(range(1, 256)):
        raise ValueError(f"{path} must describe each of its segments, numbered 1 to 255, not {sorted(names)}.")
    drawn: dict[int, list[npt.NDArray[np.intp]]] = {}
    for frame, plane in zip(frames, pixels, strict=True):
        drawn.setdefault(frame.segment, []).append(np.ravel_multi_index(frame.voxels(plane, like), like.shape))
    voxels = {number: np.concatenate(parts) for number, parts in drawn.items()}
    label = np.zeros(like.shape, np.uint8)
    flat = label.reshape(-1)
    for number in sorted(voxels, key=lambda number: len(voxels[number]), reverse=True):  # parts after their wholes
        own = voxels[number]
        taken = flat[own]
        for other in np.unique(taken[taken > 0]).tolist():
            shared = taken == other
            if shared.all() or is_part(names[number], names[other]):
                continue
            if not is_part(names[other], names[number]):
                raise ValueError(
                    f"The segments {names[number]!r} and {names[other]!r} share {shared.sum()} voxels, and neither is "
                    "part of the other: a label map gives each voxel to one. Separate them where they were drawn."
                )
            own, taken = own[~shared], taken[~shared]
        flat[own] = number
    return label, names


class _Frame:
    """Position of one plane of one segment, from its own functional groups or else the shared ones."""

    def __init__(self, own: Dataset, shared: Dataset) -> None:
        def group(keyword: str) -> Dataset:
            return (own if keyword in own else shared)[keyword][0]

        self.segment = int(group("SegmentIdentificationSequence").ReferencedSegmentNumber)
        measures = group("PixelMeasuresSequence")
        self.spacing = float(measures.get("SpacingBetweenSlices") or 0)
        across, down = np.array(group("PlaneOrientationSequence").ImageOrientationPatient, float).reshape(2, 3)
        rows_apart, columns_apart = map(float, measures.PixelSpacing)
        steps = (across * columns_apart, down * rows_apart, np.cross(across, down) * self.spacing)
        position = np.array(group("PlanePositionSequence").ImagePositionPatient, float)
        self.affine = LPS_TO_RAS @ nib.affines.from_matvec(np.stack(steps, axis=1), position)  # of (column, row, 0)

    def voxels(self, plane: npt.NDArray[Any], like: nib.Nifti1Image) -> tuple[npt.NDArray[np.intp], ...]:
        """Indices (H, W, D) in ``like`` of the non-zero pixels of a plane (rows, columns)."""
        to_voxel = np.linalg.inv(like.affine) @ self.affine
        rows, columns = np.nonzero(plane)
        positions = to_voxel @ np.stack([columns, rows, np.zeros_like(rows), np.ones_like(rows)])
        nearest = positions.round()[:3].astype(np.intp)
        spacings = np.abs(to_voxel[:3]).max(0)[: 3 if self.spacing else 2]
        inside = (nearest >= 0).all() and (nearest < np.array(like.shape)[:, None]).all()
        if not inside or np.abs(positions[:3] - nearest).max(initial=0) > 0.1 or np.abs(spacings - 1).max() > 0.1:
            raise ValueError(
                "A segmentation must have the voxels of its image, and be inside it; this one has others. Segment the "
                "series that the image was converted from, or resample the segmentation to it."
            )
        return tuple(nearest)
