"""What a result is written as, besides summary and picture: NIfTI masks, DICOM-SEG, an RT Structure Set.

The two DICOM formats need the extra ``dicom``, which is imported only where they are wanted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

import custom
from custom.anatomy.class_set import AnatomicalClass
from custom.anatomy.loading import load_class_set
from custom.imageio.readers import is_series_folder, needing_extra_dicom
from custom.utils.errors import error_summary
from custom.utils.masks import Mask

if TYPE_CHECKING:
    from custom.imageio.dicom_series import Series

NIFTI = "nifti"

NOTHING_FOUND = "nothing was found"

#: DICOM formats and the files that they become.
DICOM_FILES = {"dicom_seg": "segmentation.dcm", "rtstruct": "rtstruct.dcm"}


def read_formats(formats: Any) -> tuple[str, ...]:
    """Read ``--formats``: a list, or one text with commas, in brackets or not; ValueError: none, or an unknown one."""
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

    Raises:
        ValueError: any of these, the extra ``dicom`` is missing, or a series that a DICOM object cannot point to.
    """
    wanted = [name for name in read_formats(formats) if name != NIFTI]
    if not wanted:
        return
    given = f"--formats {','.join(wanted)}"
    with needing_extra_dicom(given):
        writers = _dicom_writers()
        from custom.imageio.dicom_series import read_series
    for image in images:
        if not is_series_folder(Path(image)):
            raise ValueError(
                f"{given} needs a folder with a DICOM series as image, to whose slices the structures point; {image} "
                "is none. Write it with --formats nifti, or pass --image with the series it was made from."
            )
        try:
            series = read_series(image)
        except ValueError:  # left to ``custom.imageio.checks.check_images``, which knows that one sound image suffices
            continue
        reason = _cannot_be_pointed_to(series)
        for name in wanted if not reason else ():
            reason = _cannot_be_written(writers[name], series)
        if reason:
            raise ValueError(
                f"{given} needs slices that can be pointed to; {image} {reason}. Write it with --formats nifti, or "
                "export the series anew."
            )


def _cannot_be_pointed_to(series: Series) -> str:
    if any(frame is not None for frame in series.frames):
        return "is in multi-frame files, and must have one slice in a file"
    for header, file in zip(series.headers, series.files, strict=True):
        pointed_to = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
        if missing := [key for key in pointed_to if not header.get(key)]:
            return f"has no {', '.join(missing)} in {file.name}"
    if len({header.SOPInstanceUID for header in series.headers}) < len(series.headers):
        return "has one SOPInstanceUID for several slices"
    return ""


def _cannot_be_written(write: Callable[..., None], series: Series) -> str:
    """Why an object of one voxel in the first two slices cannot be written; empty if it can."""
    first = replace(series, files=series.files[:2], headers=series.headers[:2], frames=series.frames[:2])
    mask = np.zeros(first.shape, bool)
    mask[0, 0, 0] = True
    origin = {"affine": first.affine, "series": first}
    with tempfile.TemporaryDirectory() as folder:
        try:
            write({load_class_set()[1]: mask}, Path(folder) / "try.dcm", **origin, model_name="", model_version="")
        except Exception as error:  # whatever the headers make pydicom and highdicom raise
            return f"has headers that cannot be repeated ({error_summary(error)})"
    return ""


def write_dicom(
    masks: Mapping[AnatomicalClass, Mask],
    folder: Path,
    formats: Sequence[str],
    *,
    like: nib.Nifti1Pair,
    trained_on: str,
) -> dict[str, str]:
    """Write masks in the DICOM formats among ``formats``; return why files were not written, by their names.

    The masks (H, W, D), by class, lie on the opened series ``like``; ``trained_on`` says what the weights were trained
    on. Structures get their class's ``name``; those
    without a voxel are left out, and where none has any, there is nothing to write. One format's failure leaves the
    others.
    """
    wanted = {name: file for name, file in DICOM_FILES.items() if name in formats}
    if not wanted:
        return {}
    if not any(mask.any() for mask in masks.values()):
        return dict.fromkeys(wanted.values(), NOTHING_FOUND)
    from custom.imageio.dicom_series import read_series

    series, failed = read_series(like.get_filename()), {}
    for name, file in wanted.items():
        write, origin = _dicom_writers()[name], {"affine": like.affine, "series": series}
        try:
            version = custom.__version__
            write(masks, folder / file, **origin, model_name="Deep FiLM", model_version=version, trained_on=trained_on)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            failed[file] = error_summary(error)
    return failed


def _dicom_writers() -> dict[str, Callable[..., None]]:
    from custom.imageio.dicom_seg import write_dicom_seg
    from custom.imageio.rtstruct import write_rtstruct

    return {"dicom_seg": write_dicom_seg, "rtstruct": write_rtstruct}
