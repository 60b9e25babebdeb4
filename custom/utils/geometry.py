"""Sizes that follow from an affine."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def voxel_volume_ml(affine: npt.NDArray[np.floating[Any]] | torch.Tensor) -> float:
    """Volume of a voxel, mL, from the affine (4, 4) from voxel indices to mm."""
    determinant = torch.linalg.det if isinstance(affine, torch.Tensor) else np.linalg.det
    return abs(float(determinant(affine[:3, :3]))) / 1000
