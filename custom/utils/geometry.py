"""Grids and their affines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def grid_corners(shape: Sequence[int]) -> npt.NDArray[np.int_]:
    """Indices (8, 3) of the corner voxels of a grid of ``shape`` (H, W, D)."""
    return np.asarray(np.indices((2, 2, 2)).reshape(3, 8).T * (np.array(shape) - 1))


def voxel_volume_ml(affine: npt.NDArray[np.floating[Any]] | torch.Tensor) -> float:
    """Volume of a voxel, mL, from the affine (4, 4) from voxel indices to mm."""
    determinant = torch.linalg.det if isinstance(affine, torch.Tensor) else np.linalg.det
    return abs(float(determinant(affine[:3, :3]))) / 1000
