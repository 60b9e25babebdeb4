"""Bounding boxes and components of binary masks."""

import numpy as np
import pytest

from custom.utils.masks import largest_component


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("others", [1, 4])
def test_the_largest_component_of_a_line_with_a_gap(axis: int, others: int) -> None:
    mask = np.zeros([others] * 3, bool)
    mask = np.repeat(mask, 6 // others + 1, axis) if others == 1 else np.pad(mask, 2)
    line = np.moveaxis(mask, axis, 0)
    line[[0, 2, 3], 0, 0] = True
    largest = np.moveaxis(largest_component(mask), axis, 0)
    assert np.argwhere(largest).tolist() == [[2, 0, 0], [3, 0, 0]]


def test_an_empty_mask_has_an_empty_component() -> None:
    assert not largest_component(np.zeros((3, 4, 5), bool)).any()
