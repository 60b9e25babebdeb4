"""What a result is written as, besides summary and picture: NIfTI masks, DICOM-SEG, an RT Structure Set.

The two DICOM formats need the extra ``dicom``, which is imported only where they are wanted.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import custom
from custom.anatomy.class_set import AnatomicalClass
from custom.imageio.readers import is_series_folder, needing_extra_dicom

NIFTI = "nifti"

#: DICOM formats and the files that they become.
DICOM_FILES = {"dicom_seg": "segmentation.dcm", "rtstruct": "rtstruct.dcm"}

#: What an image must have to be pointed to.
_POINTED_TO = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")


def read_formats(formats: Any) -> tuple[str, ...]:
    """Read ``--formats``: a list, or one text with commas, in brackets or not.

    Raises:
        ValueError: none, or one that does not exist.
    """
    if isinstance(formats, str):
        formats = [part.strip(" \"'") for part in formats.strip("[]() ").split(",")]
    known = (NIFTI, *DICOM_FILES)
    if not isinstance(formats, list | tuple) or not formats or not set(map(str, formats)) <= set(known):
        raise ValueError(
            f'--formats must be one or several of {", ".join(known)}, such as "nifti,dicom_seg", not {formats!r}.'
        )
    return tuple(name for name in known if name in formats)


def check_formats(formats: Any, images: Sequence[str | Path]) -> None:
    """Refuse, before any work, formats that do not exist, or that need a DICOM series where the image is none.

    A series that cannot be read is left to ``custom.imageio.checks.check_images``, which knows that one sound image
    suffices.

    Raises:
        ValueError: see ``read_formats``; DICOM is wanted and its extra missing, or an image is no DICOM series, or its
            slices lack what segmentations point to.
    """
    wanted = [name for name in read_formats(formats) if name != NIFTI]
    if not wanted:
        return
    given = f"--formats {','.join(wanted)}"
    with needing_extra_dicom(given):
        importlib.import_module("custom.imageio.dicom_seg")
        read_series = importlib.import_module("custom.imageio.dicom_series").read_series
    for image in images:
        if not is_series_folder(Path(image)):
            raise ValueError(
                f"{given} needs a folder with a DICOM series as image, to whose slices the structures point; {image} "
                "is none. Write it with --formats nifti, or pass --image with the series it was made from."
            )
        try:
            headers = read_series(image).headers
        except ValueError:
            continue
        for header in headers:
            if missing := [key for key in _POINTED_TO if not header.get(key)]:
                raise ValueError(
                    f"{given} needs slices that can be pointed to; one of {image} has no {', '.join(missing)}. Write "
                    "it with --formats nifti, or export the series anew."
                )


def write_dicom(
    masks: Mapping[AnatomicalClass, npt.NDArray[np.bool_]],
    folder: Path,
    formats: Sequence[str],
    *,
    affine: npt.NDArray[np.float64],
    series_dir: Path,
) -> list[str]:
    """Write masks in the DICOM formats among ``formats``; return the names of the files that were not written.

    Structures without a voxel are left out; where none has any, there is nothing to write.

    Args:
        masks: class (its ``name`` becomes the structure's) -> (H, W, D).
        folder: where the files go.
        formats: see ``read_formats``.
        affine: from voxel indices to mm (RAS).
        series_dir: the series that the masks lie on.
    """
    wanted = [name for name in formats if name in DICOM_FILES]
    if not wanted:
        return []
    if not any(mask.any() for mask in masks.values()):
        return [DICOM_FILES[name] for name in wanted]
    from custom.imageio.dicom_seg import write_dicom_seg
    from custom.imageio.rtstruct import write_rtstruct

    writers = {"dicom_seg": write_dicom_seg, "rtstruct": write_rtstruct}
    for name in wanted:
        writers[name](
            masks,
            folder / DICOM_FILES[name],
            affine=affine,
            series_dir=series_dir,
            model_name="Deep FiLM",
            model_version=custom.__version__,
        )
    return []
