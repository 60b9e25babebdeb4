"""Outlines are smooth and preserve the area of the pixels."""

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.path import Path

from custom.visualize.outlines import enclosed, outline


def rings(path: Path) -> list[npt.NDArray[np.float64]]:
    return [np.asarray(ring)[:-1] for ring in path.to_polygons(closed_only=True)]


def disc(radius: float, size: int = 40) -> npt.NDArray[np.bool_]:
    rows, columns = np.indices((size, size)) - (size - 1) / 2
    inside: npt.NDArray[np.bool_] = rows**2 + columns**2 < radius**2
    return inside


@pytest.mark.parametrize("radius", [0.8, 1.5, 2.5, 6, 15])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (5.0, 1.5)])
def test_the_area_is_that_of_the_pixels(radius: float, spacing: tuple[float, float]) -> None:
    section = disc(radius)
    (ring,) = rings(outline(section, spacing))
    assert enclosed(ring) == pytest.approx(section.sum() * spacing[0] * spacing[1], rel=0.03)
    np.testing.assert_allclose(ring.mean(0), (20 * spacing[1], 20 * spacing[0]), atol=0.02 * spacing[0])


def test_a_disc_of_pixels_becomes_round() -> None:
    section = disc(12)
    (ring,) = rings(outline(section, (1, 1)))
    distance = np.linalg.norm(ring - 20, axis=1)
    assert np.ptp(distance) < 0.5  # the pixels' corners differ by 1.3
    assert distance.mean() == pytest.approx(np.sqrt(section.sum() / np.pi), abs=0.05)


def test_a_slope_has_no_steps() -> None:
    rows, columns = np.indices((40, 60))
    (ring,) = rings(outline((rows > 10 + columns / 4) & (rows < 30), (1, 1)))
    slope = ring[(ring[:, 0] > 10) & (ring[:, 0] < 50) & (ring[:, 1] < 26)]
    offsets = slope[:, 1] - slope[:, 0] / 4
    assert np.ptp(offsets) < 0.35  # the steps are 1 high


def test_holes_and_islands_are_kept() -> None:
    section = disc(12)
    section[18:22, 18:22] = False
    section[0, 0] = section[39, 10:12] = True  # at the borders too
    found = rings(outline(section, (1, 1)))
    areas = sorted(enclosed(ring) for ring in found)
    assert areas == pytest.approx([-16, 1, 2, section.sum() + 16 - 3], rel=0.05)
    around = [np.sign(enclosed(ring)) * Path(ring).contains_points([(10, 20), (20, 20), (0.5, 0.5)]) for ring in found]
    assert np.sum(around, axis=0).tolist() == [1, 0, 1]  # a hole has the opposite orientation: it is not filled
