"""Binary masks: bounding box and largest component."""

import cc3d
import numpy as np
import numpy.typing as npt
from monai.transforms import generate_spatial_bounding_box

Mask = npt.NDArray[np.bool_]


def bounding_box(mask: Mask, margin: int = 0) -> tuple[slice, ...]:
    """The box around a mask (H, W, D), widened by ``margin`` voxels within the volume; empty for an empty mask."""
    box = generate_spatial_bounding_box(mask[None], margin=margin, allow_smaller=True)
    return tuple(slice(int(start), int(stop)) for start, stop in zip(*box, strict=True))


def largest_component(mask: Mask) -> Mask:
    """The largest 26-connected component of a mask (H, W, D)."""
    box = bounding_box(mask)
    result = np.zeros_like(mask)
    padded = np.pad(mask[box], 1)  # cc3d fails on a line of voxels with a gap
    result[box] = cc3d.largest_k(padded, k=1, binary_image=True)[1:-1, 1:-1, 1:-1] > 0
    return result
