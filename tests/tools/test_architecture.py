"""The architecture figure follows the code, and the one in the docs is not stale."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from custom.networks.film_swin_unetr import SITE_CHANNELS, VARIANTS
from custom.tools.architecture import FEATURE_SIZE, PICTURE, TITLES, draw_architecture, shapes_of


@pytest.mark.parametrize("variant", TITLES)
def test_it_knows_every_film_site(variant: str) -> None:
    shapes = shapes_of(variant)
    assert set(VARIANTS[variant].sites) <= set(shapes)
    assert {site: shapes[site][1] // FEATURE_SIZE for site in SITE_CHANNELS} == SITE_CHANNELS
    assert shapes["logits"] == (1, 32, *shapes["image"][2:])


def test_the_figure_in_the_docs_is_what_the_code_draws(tmp_path: Path) -> None:
    draw_architecture(str(tmp_path / "drawn.png"))
    drawn, shipped = (matplotlib.image.imread(path) for path in (tmp_path / "drawn.png", PICTURE))
    assert drawn.shape == shipped.shape, "run scripts/draw_architecture.py"
    assert np.abs(drawn - shipped).mean() < 0.002, "run scripts/draw_architecture.py"
