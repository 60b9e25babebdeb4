"""What a result is written as, besides summary and picture: NIfTI masks, DICOM-SEG, an RT Structure Set.

The two DICOM formats need the extra ``dicom``, which is imported only where they are wanted.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib

import custom
from custom.anatomy.class_set import AnatomicalClass
from custom.imageio.readers import is_series_folder, needing_extra_dicom
from custom.utils.masks import Mask

NIFTI = "nifti"

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
        ValueError: any of these, the extra ``dicom`` is missing, or slices lack what segmentations point to.
    """
    wanted = [name for name in read_formats(formats) if name != NIFTI]
    if not wanted:
        return
    given = f"--formats {','.join(wanted)}"
    with needing_extra_dicom(given):
        _dicom_writers()
        from custom.imageio.dicom_series import read_series
    for image in images:
        if not is_series_folder(Path(image)):
            raise ValueError(
                f"{given} needs a folder with a DICOM series as image, to whose slices the structures point; {image} "
                "is none. Write it with --formats nifti, or pass --image with the series it was made from."
            )
        try:
            headers = read_series(image).headers
        except ValueError:  # left to ``custom.imageio.checks.check_images``, which knows that one sound image suffices
            continue
        pointed_to = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
        for header in headers:
            if missing := [key for key in pointed_to if not header.get(key)]:
                raise ValueError(
                    f"{given} needs slices that can be pointed to; one of {image} has no {', '.join(missing)}. Write "
                    "it with --formats nifti, or export the series anew."
                )


def write_dicom(
    masks: Mapping[AnatomicalClass, Mask], folder: Path, formats: Sequence[str], *, like: nib.Nifti1Image
) -> list[str]:
    """Write masks in the DICOM formats among ``formats``; return the names of the files that were not written.

    The masks (H, W, D), by class, lie on the opened series ``like``. Structures get their class's ``name``; those
    without a voxel are left out, and where none has any, there is nothing to write.
    """
    wanted = {name: file for name, file in DICOM_FILES.items() if name in formats}
    if wanted and not any(mask.any() for mask in masks.values()):
        return list(wanted.values())
    origin = {"affine": like.affine, "series_dir": like.get_filename()}
    for name, file in wanted.items():
        write = _dicom_writers()[name]
        write(masks, folder / file, **origin, model_name="Deep FiLM", model_version=custom.__version__)
    return []


def _dicom_writers() -> dict[str, Callable[..., None]]:
    from custom.imageio.dicom_seg import write_dicom_seg
    from custom.imageio.rtstruct import write_rtstruct

    return {"dicom_seg": write_dicom_seg, "rtstruct": write_rtstruct}
