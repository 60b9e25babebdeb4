"""Lines between grids, beyond what the tests of spacing and of the inferer show."""

from typing import Any

import numpy as np
import pytest
import torch

from custom.transforms.resampling import find_lines, interpolate


def test_beyond_the_end_the_last_value_is_repeated_or_zero() -> None:
    values = torch.arange(1.0, 5.0)[:, None, None].expand(4, 2, 2)
    affine = np.diag([1.0, 1, 1, 1])
    affine[0, 3] = -1.5
    ends: dict[str, Any] = {"from_shape": (4, 2, 2), "from_affine": np.eye(4)}
    lines = find_lines((7, 2, 2), affine, **ends)
    assert interpolate(values, lines)[:, 0, 0].tolist() == [1, 1, 1.5, 2.5, 3.5, 4, 4]
    lines = find_lines((7, 2, 2), affine, **ends, nothing=[(True, True), (False, False), (False, False)])
    assert interpolate(values, lines)[:, 0, 0].tolist() == [0, 0.5, 1.5, 2.5, 3.5, 2, 0]


def test_axes_that_are_not_parallel_are_refused() -> None:
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    with pytest.raises(ValueError, match="must have parallel axes"):
        find_lines((9, 9, 9), turned, from_shape=(9, 9, 9), from_affine=np.eye(4))


def test_voxels_that_depend_on_a_part_of_the_grid() -> None:
    affine = np.diag([0.5, 1, 1, 1])
    line = find_lines((20, 3, 3), affine, from_shape=(10, 3, 3), from_affine=np.eye(4))[0]
    assert line.touching(3, 4) == slice(5, 10)  # 2.5 to 4.5
    assert line.touching(40, 50) == slice(0, 0)
