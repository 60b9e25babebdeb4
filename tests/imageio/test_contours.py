"""Polygons contain the centres of the mask's pixels and no others, by both fill rules."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from custom.imageio.contours import Points, polygons

Mask = npt.NDArray[np.bool_]


def windings(polygon: Points, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    """How often a polygon goes round each pixel's centre, and how often a ray to the right crosses it."""
    rows, columns = np.indices(shape)
    wound, crossed = np.zeros(shape, int), np.zeros(shape, int)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        spans = (y0 <= rows) != (y1 <= rows)
        if y0 != y1:
            hit = spans & (columns < x0 + (rows - y0) * (x1 - x0) / (y1 - y0))
            crossed += hit
            wound += hit * (1 if y1 > y0 else -1)
    return wound, crossed


def assert_holds(section: Mask) -> list[Points]:
    found = polygons(section)
    evenly, wound = np.zeros(section.shape, bool), np.zeros(section.shape, bool)
    for polygon in found:
        assert len(polygon) >= 3
        around, crossed = windings(polygon, section.shape)
        assert not (wound & (around != 0)).any()  # no two polygons of a slice overlap
        evenly, wound = evenly | (crossed % 2 == 1), wound | (around != 0)
    np.testing.assert_array_equal(evenly, section)
    np.testing.assert_array_equal(wound, section)
    return found


def area(polygon: Points) -> float:
    x, y = polygon.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def disc(radius: float) -> Mask:
    side = np.arange(-40, 41)
    return side[:, None] ** 2 + side[None] ** 2 <= radius**2


SECTIONS: dict[str, Mask] = {
    "nothing": np.zeros((5, 7), bool),
    "all": np.ones((5, 7), bool),
    "a pixel": np.arange(35).reshape(5, 7) == 11,
    "a row": np.arange(35).reshape(5, 7) // 7 == 0,
    "diagonal": np.eye(6, dtype=bool),
    "chessboard": np.indices((6, 7)).sum(0) % 2 == 0,
    "disc": disc(30),
    "ring": disc(30) & ~disc(12),
    "island in a hole": disc(30) & ~disc(12) | disc(5),
    "holes side by side": disc(30) & (np.arange(81) % 4 != 0),
    "holes": disc(30) & ((np.arange(81) % 4 != 0)[:, None] | (np.arange(81) % 3 != 0)),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_polygon_holds_its_pixels(name: str) -> None:
    assert_holds(SECTIONS[name])


@pytest.mark.parametrize("seed", range(9))
def test_any_noise_survives(seed: int) -> None:
    """Many small pieces and holes, down to single pixels."""
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.normal(size=(30, 37)), seed % 3)
    assert_holds(noise > np.quantile(noise, (0.2, 0.5, 0.8)[seed // 3]))


def test_a_hole_is_part_of_the_polygon_around_it() -> None:
    assert len(assert_holds(SECTIONS["ring"])) == 1
    assert len(assert_holds(SECTIONS["island in a hole"])) == 2


def test_large_structures_keep_their_area() -> None:
    for radius in (20, 30, 40):
        (polygon,) = polygons(disc(radius))
        assert area(polygon) == pytest.approx(disc(radius).sum(), rel=0.003)


def test_straight_edges_have_no_points_between() -> None:
    (polygon,) = polygons(np.ones((30, 50), bool))
    assert len(polygon) == 8  # the corners are cut
