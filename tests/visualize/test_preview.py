"""Content of preview pictures, read from their pixels."""

from pathlib import Path

import matplotlib.image
import numpy as np
import numpy.typing as npt
import pytest
from nibabel.affines import from_matvec

from custom.anatomy.class_set import AnatomicalClass, ClassSet
from custom.visualize import page
from custom.visualize.page import shorten, volume_text
from custom.visualize.preview import write_preview

LIVER, LIVER_TUMOR, SPLEEN = 6, 27, 1
WINDOW = (-160.0, 240.0)
SHAPE = (30, 26, 24)
Pixels = npt.NDArray[np.float64]


def masks_of(class_set: ClassSet) -> dict[AnatomicalClass, npt.NDArray[np.bool_]]:
    liver, tumor = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    liver[4:20, 5:20, 6:20] = tumor[16:22, 8:14, 10:14] = True
    return {class_set[LIVER]: liver, class_set[LIVER_TUMOR]: tumor, class_set[SPLEEN]: np.zeros(SHAPE, bool)}


def picture(path: Path) -> Pixels:
    pixels: Pixels = np.round(255.0 * matplotlib.image.imread(path)[..., :3]).astype(np.float64)
    return pixels


def pixels_of(pixels: Pixels, color: tuple[int, int, int] | str) -> npt.NDArray[np.intp]:
    """Row and column of the pixels of a colour."""
    if isinstance(color, str):
        color = (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16))
    return np.argwhere(np.abs(pixels - color).max(-1) <= 2)


def test_outlines_and_legend_have_the_class_colours(class_set: ClassSet, tmp_path: Path) -> None:
    volume = np.random.RandomState(0).normal(60, 60, SHAPE).astype(np.float32)
    affine = from_matvec(np.array([[2.8, 0.5, 0], [-0.5, 2.8, 0], [0, 0, 5]]), [0, 0, 0])
    masks = masks_of(class_set)
    write_preview(volume, masks, affine, tmp_path / "preview.png", window=WINDOW, title="liver $x^2_ " * 30)
    pixels = picture(tmp_path / "preview.png")
    height, width = pixels.shape[:2]
    assert width == 1500
    assert 400 < height < 1000
    for index, found in ((LIVER, True), (LIVER_TUMOR, True), (SPLEEN, False)):
        where = pixels_of(pixels, class_set[index].color)
        sections = where[where[:, 0] < height - 70]
        assert bool(len(where)) is found
        if found:
            thirds = np.unique(sections[:, 1] * 3 // width)
            assert thirds.tolist() == [0, 1, 2], class_set[index].name
            assert len(where) > len(sections)  # the legend
    assert len(pixels_of(pixels[-40:], page.WARNING)) > 20  # no spleen


def test_pixels_are_to_scale(class_set: ClassSet, tmp_path: Path) -> None:
    """A cube of tissue in air is a square in every plane, whatever the voxels, and the bar measures it."""
    for spacing in ((3, 3, 3), (1.5, 3, 6)):
        shape = tuple(int(180 / step) for step in spacing)
        cube = np.zeros(shape, bool)
        cube[tuple(slice(int(60 / step), int(120 / step)) for step in spacing)] = True
        image = np.where(cube, 40, -1000).astype(np.float32)
        path = tmp_path / "preview.png"
        write_preview(image, {class_set[LIVER]: cube}, np.diag([*spacing, 1.0]), path, window=WINDOW, title="cube")
        where = pixels_of(picture(path), class_set[LIVER].color)
        where = where[where[:, 0] < where[:, 0].max() - 40]
        for third in range(3):
            own = where[where[:, 1] * 3 // 1500 == third]
            down, across = np.ptp(own, axis=0)
            assert down == pytest.approx(across, rel=0.02)


@pytest.mark.parametrize(
    ("shape", "fill"), [((9, 11, 1), False), ((1, 1, 1), True), ((9, 11, 7), True), ((9, 11, 7), False)]
)
def test_single_slices_and_full_or_empty_masks(
    class_set: ClassSet, tmp_path: Path, shape: tuple[int, ...], fill: bool
) -> None:
    masks = {class_set[LIVER]: np.full(shape, fill)}
    write_preview(np.zeros(shape, np.float32), masks, np.eye(4), tmp_path / "preview.png", window=WINDOW, title="liver")
    pixels = picture(tmp_path / "preview.png")
    assert pixels.shape[1] == 1500
    assert bool(len(pixels_of(pixels, class_set[LIVER].color))) is fill
    assert bool(len(pixels_of(pixels, page.WARNING))) is not fill


def test_an_arrow_points_at_a_single_voxel(class_set: ClassSet, tmp_path: Path) -> None:
    dot = np.zeros((120, 100, 110), bool)
    dot[30, 40, 50] = True
    image = np.zeros(dot.shape, np.float32)
    write_preview(image, {class_set[LIVER]: dot}, np.eye(4), tmp_path / "p.png", window=WINDOW, title="?")
    where = pixels_of(picture(tmp_path / "p.png")[:-40], class_set[LIVER].color)
    for third in range(3):
        own = where[where[:, 1] * 3 // 1500 == third]
        assert np.ptp(own, axis=0).min() > 20  # an arrow: the voxel itself is 4 pixels wide


def test_the_legend_lists_many_structures(class_set: ClassSet, tmp_path: Path) -> None:
    masks = {}
    for index in range(1, 33):
        mask = np.zeros((40, 40, 40), bool)
        mask[index : index + 2, 10:30, 10:30] = True
        masks[class_set[index]] = mask
    write_preview(np.zeros((40, 40, 40), np.float32), masks, np.eye(4), tmp_path / "p.png", window=WINDOW, title="all")
    pixels = picture(tmp_path / "p.png")
    assert all(len(pixels_of(pixels[520:, :1480], item.color)) > 20 for item in masks)


def test_long_text_is_shortened() -> None:
    assert shorten("liver  and\nspleen", 20) == "liver and spleen"
    assert shorten("liver, spleen, both kidneys", 20) == "liver, spleen, both…"
    assert shorten("liver, spleen, both kidneys", 15) == "liver, spleen…"
    assert shorten("x" * 50, 20) == "x" * 19 + "…"


@pytest.mark.parametrize(
    ("millilitres", "text"), [(1432.4, "1432 mL"), (10.2, "10 mL"), (8.26, "8.3 mL"), (0.0273, "0.027 mL")]
)
def test_volumes_are_rounded(millilitres: float, text: str) -> None:
    assert volume_text(millilitres) == text
