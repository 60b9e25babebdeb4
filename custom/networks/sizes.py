"""Window sizes and spacings that the networks accept."""

import math
from typing import Any


def check_roi_size(roi_size: Any) -> None:
    """Raise ValueError for a window that is not three multiples of 32 voxels: networks halve every side five times."""
    if not _is_triple(roi_size, int) or any(side < 1 or side % 32 for side in roi_size):
        raise ValueError(f'roi_size must be three multiples of 32 voxels, such as "[96,96,96]", not {roi_size}.')


def check_sizes(*, roi_size: Any, spacing: Any) -> None:
    """Raise ValueError, before any work starts, for a window or a working spacing (mm) that no training can have.

    They are windows refused by ``check_roi_size`` or of 32x32x32, and what is not three positive numbers.
    """
    check_roi_size(roi_size)
    if max(roi_size) < 64:
        raise ValueError(
            "--roi_size must have at least one side of 64 voxels or more: 32x32x32 leaves a single voxel at "
            f"SwinUNETR's bottleneck, which cannot be normalised; received {roi_size}."
        )
    if not _is_triple(spacing, int | float) or not all(0 < side < math.inf for side in spacing):
        raise ValueError(f'--spacing must be three positive numbers (mm), such as "[1.5,1.5,1.5]", not {spacing}.')


def _is_triple(value: Any, kind: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 3:
        return False
    return all(isinstance(side, kind) and not isinstance(side, bool) for side in value)
