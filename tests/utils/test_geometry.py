"""Grids and their affines."""

import numpy as np
import pytest
import torch

from custom.utils.geometry import grid_corners, voxel_volume_ml


def test_the_volume_of_a_voxel_is_positive_in_any_orientation() -> None:
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, 6], [0, 0, 4.0, 7], [0, 0, 0, 1]])
    assert voxel_volume_ml(affine) == pytest.approx(0.012)
    assert voxel_volume_ml(affine @ np.diag([1.0, 1, -1, 1])) == pytest.approx(0.012)
    assert voxel_volume_ml(torch.from_numpy(affine)) == pytest.approx(0.012)


def test_the_corners_of_a_grid() -> None:
    corners = grid_corners((2, 3, 4)).tolist()
    assert len(corners) == 8
    assert all(corner in corners for corner in ([0, 0, 0], [1, 2, 3], [1, 0, 3]))
