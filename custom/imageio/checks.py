"""Checks of images and labels: one volume per file, a known position in space, the unit of the modality.

``open_image`` reads headers only, so that a run can call it before any work; ``LoadVolumed`` checks the voxels.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from custom.anatomy.class_set import ClassSet
from custom.imageio.readers import open_nifti, open_volume
from custom.utils.geometry import grid_corners

logger = logging.getLogger(__name__)

#: Smallest and largest side of a voxel, mm; others mean that the header's unit is not the millimetre.
VOXEL_MM = (0.05, 50.0)


def open_image(path: str | Path) -> nib.Nifti1Image:
    """Open a volume of any format as ``readers.open_volume`` does, and check it as ``check_image`` does."""
    return _check_header(open_volume(path), path)


def check_image(path: str | Path) -> nib.Nifti1Image:
    """Open a NIfTI file, without its voxels, and check that it is a volume with a known position in space.

    Raises:
        ValueError: no NIfTI; not three axes (a trailing axis of length one is refused too, as masks have exactly the
            image's shape); colours or complex numbers; no orientation (``sform_code`` and ``qform_code`` 0), or two
            that mirror each other; a singular affine, or voxels that cannot be in mm.
    """
    return _check_header(open_nifti(path), path)


def _is_mirrored(image: nib.Nifti1Image) -> bool:
    """Whether both affines are coded and no rotation turns one into the other."""
    sform = image.get_sform(coded=True)[0]
    try:
        qform = image.get_qform(coded=True)[0]
    except ValueError:  # not a rotation: every program takes the sform
        return False
    return bool(sform is not None and qform is not None and np.linalg.det(sform) * np.linalg.det(qform) < 0)


def _check_header(image: nib.Nifti1Image, path: str | Path) -> nib.Nifti1Image:
    if len(image.shape) != 3 or 0 in image.shape:
        advice = "nibabel.squeeze_image removes axes of length one" if 1 in image.shape[3:] else "take one volume"
        raise ValueError(f"An image must be 3D (H, W, D); {path} has shape {image.shape}: {advice}.")
    if image.get_data_dtype().kind not in "iuf":
        raise ValueError(f"Voxels must be real numbers; those of {path} are {image.get_data_dtype()}.")
    if int(image.header["sform_code"]) == int(image.header["qform_code"]) == 0:
        raise ValueError(
            f"{path} has no position in space (sform_code and qform_code are 0), so left and right are unknown. "
            "Convert it again from its DICOM series; or, if you know that its affine is right, set it with nibabel: "
            "image.set_sform(image.affine, code=1)."
        )
    sides = np.linalg.norm(image.affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(image.affine[:3, :3]))
    if not np.isfinite(image.affine).all() or not volume > 1e-3 * sides.prod():
        rule = f"The affine of {path} must be invertible, not {image.affine.tolist()}"
        raise ValueError(f"{rule}. Convert it again from its source.")
    if _is_mirrored(image):
        raise ValueError(
            f"The sform and the qform of {path} mirror each other, so programs disagree about left and right. Convert "
            "it anew from its DICOM series; or, if you know which is right, keep that one with nibabel: "
            "image.set_qform(None, code=0) or image.set_sform(None, code=0)."
        )
    if sides.min() < VOXEL_MM[0] or sides.max() > VOXEL_MM[1]:
        received = f"those of {path} have {sides.round(6).tolist()}"
        rule = f"Voxels must have sides of {VOXEL_MM[0]} to {VOXEL_MM[1]} mm; {received}"
        raise ValueError(f"{rule}. If its header is in another unit, convert the affine to mm.")
    return image


def check_images(images: Sequence[str | Path]) -> None:
    """Check the headers of all images before any work; log those that cannot be segmented, ValueError if none can."""
    problems = []
    for image in images:
        try:
            open_image(image)
        except (ValueError, OSError) as error:
            if len(images) == 1:
                raise
            problems.append(error)
    if problems and len(problems) == len(images):
        raise ValueError("No image can be segmented: " + " ".join(map(str, problems)))
    for problem in problems:
        logger.error("Will not be segmented: %s", problem)


def check_cases(cases: Sequence[Mapping[str, Any]]) -> None:
    """Check the headers of images and their labels before a training or an evaluation, as ``check_same_grid`` does."""
    for case in cases:
        if "label" not in case:
            raise ValueError(f"Training and evaluation need labels; {case['image']} has none: choose another --split.")
        check_same_grid(case["image"], case["label"])


def check_same_grid(image_path: str | Path, label_path: str | Path) -> None:
    """Refuse a label of another shape, or with corners more than a tenth of a voxel away from the image's."""
    image, label = check_image(image_path), check_image(label_path)
    rule = "Image and label must lie on one grid"
    advice = "Resample the label to the image (nearest neighbour), or correct dataset.json."
    if image.shape != label.shape:
        raise ValueError(f"{rule}: {image_path} has shape {image.shape}, {label_path} {label.shape}. {advice}")
    corners = grid_corners(image.shape)
    apart = nib.affines.apply_affine(image.affine, corners) - nib.affines.apply_affine(label.affine, corners)
    distance = float(np.linalg.norm(apart, axis=1).max())
    if distance > 0.1 * np.linalg.norm(image.affine[:3, :3], axis=0).min():
        received = f"the affines of {image_path} and {label_path} place corners {distance:.3g} mm apart"
        raise ValueError(f"{rule}: {received}. {advice}")


def intensity_window(values: npt.NDArray[Any], class_set: ClassSet) -> tuple[float, float]:
    """The intensities that are scaled to 0 and 1 for the network, in an image with these voxels."""
    low, high = class_set.intensity_window
    if class_set.percentiles:
        low, high = (float(value) for value in np.percentile(values, (low, high)))
    return low, high


def check_intensities(values: npt.NDArray[Any], class_set: ClassSet, *, source: str | Path) -> None:
    """Refuse an image that is clearly not in the unit of its modality.

    Any modality:

    1. at most 1 % of the voxels are outside ``plausible_intensity`` (metal may be); the lowest value does not count, as
       scanners and resampling pad with one value (-2000, -3024, ...);
    2. at least 0.5 % of the voxels are in ``intensity_window``, all that the network sees, and these spread over at
       least 10 units (1st to 99th percentile), which images scaled to [0, 1] or to unit variance do not. A window in
       ``percentiles`` has no unit: the image must only not be constant.

    CT, with zero at water, also needs one of

    3. air: 0.1 % of the voxels below -500 HU; or fat, or air clipped by a window: 1 % below -20 HU; or, in a crop
       inside organs: 90 % in the window, and zero is not background (1 % exactly zero and hardly anything below), as it
       is in 8-bit pictures, MR, and CT without its rescale intercept.

    An 8-bit picture or an MR image of 0 to 250 without background looks like a contrast-enhanced organ and passes.
    ``values`` are all voxels, finite. The ValueError has their range, and names the file ``source``.
    """
    flat = values.reshape(-1)
    low, high = float(flat.min()), float(flat.max())
    flat = flat[:: max(1, flat.size // 2_000_000)]
    (least, most), (dark, bright) = class_set.plausible_intensity, intensity_window(flat, class_set)
    outside = float(np.mean((flat != low) & ((flat < least) | (flat > most))))
    seen = flat[(flat >= dark) & (flat <= bright)]
    spread = float(np.subtract(*np.percentile(seen, [99, 1]))) if seen.size else 0.0
    if outside > 0.01:
        why = f"{outside:.0%} of its voxels are outside the plausible range of {least:g} to {most:g}"
    elif seen.size < 0.005 * flat.size or spread == 0 or (spread < 10 and not class_set.percentiles):
        why = f"what is in the window of {dark:g} to {bright:g} shows no structure"
    elif class_set.modality == "CT" and not _has_zero_at_water(flat, inside=seen.size / flat.size):
        why = "air (about -1000) and fat (about -100) are missing, and it is no crop inside organs"
    else:
        return
    unit = "HU (air -1000, water 0)" if class_set.modality == "CT" else f"the unit of {class_set.modality}"
    raise ValueError(
        f"{source} does not look like an image in {unit}: {why}; its values range from {low:g} to {high:g}, median "
        f"{float(np.median(flat)):g}. Undo any scaling or windowing and apply the rescale slope and intercept, or "
        "convert it again from DICOM. If it is right all the same, pass --check_intensity False."
    )


def _has_zero_at_water(values: npt.NDArray[Any], *, inside: float) -> bool:
    air, fat = float(np.mean(values < -500)), float(np.mean(values < -20))
    background = np.mean(values == 0) >= 0.01 > np.mean(values < 0)
    return air >= 0.001 or fat >= 0.01 or (inside >= 0.9 and not background)
