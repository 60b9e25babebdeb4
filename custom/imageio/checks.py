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

#: Greatest distance between a corner's two positions that is taken for rounding, in voxels.
GRID_TOLERANCE = 0.5


def open_image(path: str | Path, *, modality: str | None = None) -> nib.Nifti1Pair:
    """Open a volume of any format as ``readers.open_volume`` does, and check it as ``check_image`` does.

    Where its header says a modality, as DICOM's does, it must be ``modality``.
    """
    image = _check_header(open_volume(path), path)
    if modality:
        check_modality(image.extra.get("Modality", ""), modality, image=path)
    return image


def check_modality(received: str, modality: str, *, image: str | Path) -> None:
    """Raise ValueError where DICOM's ``received`` modality is another than that of the weights; none, or OT, passes."""
    if received not in ("", "OT", modality):
        raise ValueError(
            f"The image must be {modality}; the header of {image} says Modality {received}. Pass another series, or "
            "weights that were trained on this modality."
        )


def check_image(path: str | Path) -> nib.Nifti1Pair:
    """Open a NIfTI file, without its voxels, and check that it is a volume with a known position in space.

    Raises:
        ValueError: no NIfTI; not three axes; colours or complex numbers; no orientation (``sform_code`` and
            ``qform_code`` 0), or two that disagree; a singular affine; another unit than mm, or voxels that cannot be
            in mm.
    """
    return _check_header(open_nifti(path), path)


def _disagreement(image: nib.Nifti1Pair) -> str:
    """How the sform differs from the qform or from the voxel sizes, more than rounding does; empty if not."""
    sform = image.get_sform(coded=True)[0]
    if sform is None:
        return ""
    corners = grid_corners(image.shape)
    least = float(np.linalg.norm(sform[:3, :3], axis=0).min())
    try:
        qform = image.get_qform(coded=True)[0]
    except ValueError:  # no rotation: every program takes the sform
        qform = None
    if qform is not None:
        if np.linalg.det(sform) * np.linalg.det(qform) < 0:
            return "qform mirror each other"
        apart = nib.affines.apply_affine(sform, corners) - nib.affines.apply_affine(qform, corners)
        if (distance := float(np.linalg.norm(apart, axis=1).max())) > GRID_TOLERANCE * least:
            return f"qform place the image's corners up to {distance:.3g} mm apart"
    sides, stored = np.linalg.norm(sform[:3, :3], axis=0), np.abs(image.header["pixdim"][1:4])
    if (np.abs(sides - stored) * np.array(image.shape) > GRID_TOLERANCE * least).any():
        return f"voxel sizes (pixdim) disagree: {sides.round(4).tolist()} and {stored.round(4).tolist()} mm"
    return ""


def _check_header(image: nib.Nifti1Pair, path: str | Path) -> nib.Nifti1Pair:
    if len(image.shape) != 3 or 0 in image.shape:
        raise ValueError(f"An image must be 3D (H, W, D); {path} has shape {image.shape}: take one volume.")
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
    if (unit := image.header.get_xyzt_units()[0]) not in ("mm", "unknown"):
        raise ValueError(
            f"The unit of a NIfTI image must be the millimetre; the header of {path} says {unit}. Convert it."
        )
    if disagreement := _disagreement(image):
        raise ValueError(
            f"{path} must lie in one place; its sform and {disagreement}, so programs disagree about where it is, how "
            "large, and what is left. Convert it anew from its DICOM series; or, if you know which is right, give both "
            "its value with nibabel: image.set_qform(image.get_sform(), 1) or image.set_sform(image.get_qform(), 1)."
        )
    if sides.min() < VOXEL_MM[0] or sides.max() > VOXEL_MM[1]:
        received = f"those of {path} have {sides.round(6).tolist()}"
        rule = f"Voxels must have sides of {VOXEL_MM[0]} to {VOXEL_MM[1]} mm; {received}"
        raise ValueError(f"{rule}. If its header is in another unit, convert the affine to mm.")
    return image


def check_images(images: Sequence[str | Path], class_set: ClassSet) -> None:
    """Check the headers of all images before any work; log those that cannot be segmented, ValueError if none can."""
    problems = []
    for image in images:
        try:
            open_image(image, modality=class_set.modality)
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

    1. at most 1 % of the voxels are below ``plausible_intensity`` and at most 10 % above (metal); padding does not
       count, with which scanners and resampling fill what they do not know (-2000, -3024, ...): lowest values that
       nothing else comes near;
    2. at least 0.5 % of the voxels are in ``intensity_window``, all that the network sees, and these spread over at
       least 10 units (1st to 99th percentile), which images scaled to [0, 1] or to unit variance do not. A window in
       ``percentiles`` has no unit: the image must only not be constant.

    CT, with zero at water, also needs one of

    3. air: 0.1 % of the voxels below -500 HU; or fat, or air clipped by a window: 1 % below -20 HU; or, in a crop
       inside organs: 90 % in the window, and zero is not background (1 % exactly zero and hardly anything below), as it
       is in 8-bit pictures, MR, and CT without its rescale intercept;

    and, whatever air and padding say,

    4. 4 % of the voxels above -200 HU, as air and lungs alone are no body; no more voxels at any intensity beyond 700
       HU than just beyond 200 HU, as bone is the rarer the denser it is, and what lies there in masses is soft tissue
       without its rescale intercept.

    An 8-bit picture or an MR image of 0 to 250 without background looks like a contrast-enhanced organ and passes.
    ``values`` are all voxels, finite. The ValueError has their range, and names the file ``source``.
    """
    flat = values.reshape(-1)
    low, high = float(flat.min()), float(flat.max())
    flat = _without_padding(flat[:: max(1, flat.size // 2_000_000)])
    (least, most), (dark, bright) = class_set.plausible_intensity, intensity_window(flat, class_set)
    below, above = float(np.mean(flat < least)), float(np.mean(flat > most))
    seen = flat[(flat >= dark) & (flat <= bright)]
    spread = float(np.subtract(*np.percentile(seen, [99, 1]))) if seen.size else 0.0
    if below > 0.01 or above > 0.1:
        why = f"{below + above:.0%} of its voxels are outside the plausible range of {least:g} to {most:g}"
    elif seen.size < 0.005 * flat.size or spread == 0 or (spread < 10 and not class_set.percentiles):
        why = f"what is in the window of {dark:g} to {bright:g} shows no structure"
    elif class_set.modality == "CT" and not _has_zero_at_water(flat, inside=seen.size / flat.size):
        why = "air (about -1000) and fat (about -100) are missing, and it is no crop inside organs"
    elif class_set.modality == "CT" and float(np.mean(flat > -200)) < 0.04:
        why = "hardly anything is denser than air and lungs"
    elif class_set.modality == "CT" and (mode := _dense_mode(flat)) > 700:
        why = f"most of what is denser than soft tissue lies near {mode:g}, where bone is rare"
    else:
        return
    unit = "HU (air -1000, water 0)" if class_set.modality == "CT" else f"the unit of {class_set.modality}"
    raise ValueError(
        f"{source} does not look like an image in {unit}: {why}; its values range from {low:g} to {high:g}, median "
        f"{float(np.median(flat)):g}. Undo any scaling or windowing and apply the rescale slope and intercept, or "
        "convert it again from DICOM. If it is right all the same, pass --check_intensity False."
    )


def _without_padding(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values without the lowest one as long as it repeats and the next is 100 away, or more."""
    while True:
        rest = values[values > values.min()]
        if not rest.size or float(rest.min()) - float(values.min()) < 100 or values.size - rest.size < 2:
            return values
        values = rest


def _dense_mode(values: npt.NDArray[Any]) -> float:
    """The most frequent intensity beyond 200, to 100; 0 where less than 5 % lie there."""
    counts, edges = np.histogram(values, bins=np.arange(200, 4200, 100))
    return float(edges[counts.argmax()]) + 50 if counts.sum() >= 0.05 * values.size else 0.0


def _has_zero_at_water(values: npt.NDArray[Any], *, inside: float) -> bool:
    air, fat = float(np.mean(values < -500)), float(np.mean(values < -20))
    background = np.mean(values == 0) >= 0.01 > np.mean(values < 0)
    return air >= 0.001 or fat >= 0.01 or (inside >= 0.9 and not background)
