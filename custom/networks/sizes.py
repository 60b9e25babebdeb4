"""Window and spacing that the networks can take."""

from typing import Any


def check_roi_size(roi_size: Any) -> None:
    """Refuse a window that a network which halves every side five times cannot take.

    Raises:
        ValueError: not three multiples of 32 voxels.
    """
    if not _is_triple(roi_size, int) or any(side < 1 or side % 32 for side in roi_size):
        raise ValueError(f'roi_size must be three multiples of 32 voxels, such as "[96,96,96]", not {roi_size}.')


def check_sizes(*, roi_size: Any, spacing: Any) -> None:
    """Refuse a window or a spacing that would fail later, or mean something else than it says.

    Raises:
        ValueError: a window that ``check_roi_size`` refuses, or of 32x32x32; a spacing that is not three
            positive numbers.
    """
    check_roi_size(roi_size)
    if max(roi_size) < 64:
        raise ValueError(
            "--roi_size must have at least one side of 64 voxels or more: SwinUNETR needs more than the "
            f"one voxel that 32x32x32 leaves at its bottleneck; received {roi_size}."
        )
    if not _is_triple(spacing, int | float) or min(spacing) <= 0:
        raise ValueError(f'--spacing must be three positive numbers (mm), such as "[1.5,1.5,1.5]", not {spacing}.')


def _is_triple(value: Any, kind: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 3:
        return False
    return all(isinstance(side, kind) and not isinstance(side, bool) for side in value)
