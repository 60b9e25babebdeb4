"""Sections with outlined structures and a legend on a dark page."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from custom.anatomy.class_set import AnatomicalClass
from custom.utils.files import atomic_write
from custom.utils.masks import Mask
from custom.visualize.outlines import outline
from custom.visualize.planes import Panel, Sections

Color = tuple[float, float, float]

#: Structures, each with the figure beside its name.
Legend = Sequence[tuple[AnatomicalClass, str]]

#: Sizes on the page, in pixels.
WIDTH, DPI, MARGIN, GAP = 1500, 100, 22, 14
TITLE, SUBTITLE, CAPTION, LINE = 32, 24, 21, 27
CHARACTER = 9.2  # mean width in the legend
TALLEST = 760  # row

PAGE, PALE, DIM, WARNING = "#0b0d10", "#f2f4f7", "#9aa4b2", "#ffb000"
HALO = (withStroke(linewidth=3, foreground="black"),)

#: Sections of fewer pixels have no room for letters at both ends, or for a scale bar.
THIN = 60

#: A structure that covers fewer pixels than this in every section gets an arrow.
SMALL = 150


class Cell(NamedTuple):
    """One section: its panel, the structures outlined on it, and the caption above it."""

    panel: Panel
    sections: Sections
    caption: str


def draw_page(
    rows: Sequence[Sequence[Cell]],
    path: str | Path,
    *,
    window: tuple[float, float],
    title: str,
    subtitle: str = "",
    legend: Legend = (),
    warning: str = "",
    note: str = "",
) -> None:
    """Write a PNG, ``WIDTH`` pixels wide, of rows of sections at one scale; all rows have the same length.

    ``window`` holds the intensities shown as black and as white. Titles, and the warning and the note at the bottom,
    are shortened to one line.
    """
    sizes = [[_size(cell.panel) for cell in row] for row in rows]
    widths = [max(size[0] for size in column) for column in zip(*sizes, strict=True)]
    heights = [max(size[1] for size in row) for row in sizes]
    room = WIDTH - 2 * MARGIN - GAP * (len(widths) - 1)
    scale = min(room / sum(widths), TALLEST / max(heights))  # pixels per mm
    columns = _columns(legend)
    top = MARGIN + TITLE + (SUBTITLE if subtitle else 0)
    below = top + sum(heights) * scale + len(heights) * (CAPTION + GAP)
    lines = max((len(column) for _, column in columns), default=0) + bool(warning) + bool(note)
    height = math.ceil(below + LINE * lines + MARGIN / 2)

    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=PAGE)
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, WIDTH), ylim=(height, 0))
    page.axis("off")
    _write(page, MARGIN, MARGIN - 4, shorten(title, 120), fontsize=14.5, va="top")
    _write(page, MARGIN, MARGIN + TITLE - 5, shorten(subtitle, 165), fontsize=11, va="top", color=DIM)

    roomy = [width for row in sizes for width, depth in row if min(width, depth) * scale >= THIN]
    narrowest = min(roomy or [width for row in sizes for width, _ in row])
    round_lengths = [step * 10.0**power for power in range(-4, 4) for step in (1, 2, 5)]
    bar = max(length for length in round_lengths if length <= narrowest / 4)
    tiny = _tiny([cell for row in rows for cell in row], scale)
    spare = (room - sum(widths) * scale) / len(widths)  # if the tallest row sets the scale
    lower = float(top)
    for row, row_sizes, row_height in zip(rows, sizes, heights, strict=True):
        left = MARGIN + spare / 2
        for cell, (across, down), column_width in zip(row, row_sizes, widths, strict=True):
            x = left + (column_width - across) * scale / 2
            y = lower + CAPTION + (row_height - down) * scale / 2
            _write(page, x, y - 6, cell.caption, fontsize=10.5, va="baseline", color=DIM)
            box = (x / WIDTH, 1 - (y + down * scale) / height, across * scale / WIDTH, down * scale / height)
            _draw_cell(cell, figure.add_axes(box), window=window, scale=scale, bar=bar, tiny=tiny)
            left += column_width * scale + GAP + spare
        lower += row_height * scale + CAPTION + GAP
    _draw_legend(page, columns, below + LINE / 2 - 4)
    last = below + LINE * lines - LINE / 2 - 4
    _write(page, MARGIN, last - LINE * bool(note), shorten(warning, 150), fontsize=12, color=WARNING)
    _write(page, MARGIN, last, shorten(note, 165), fontsize=11, color=DIM)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png", facecolor=PAGE)


def shorten(text: str, most: int) -> str:
    """Text on one line of at most ``most`` characters, cut between words where that loses less than half."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    at = line.rfind(" ", 0, most)
    return f"{line[:at].rstrip(' ,;') if at > most / 2 else line[: most - 1]}…"


def volume_text(millilitres: float) -> str:
    """A volume, rounded: "1432 mL", "8.3 mL", "0.027 mL"."""
    if millilitres >= 10:
        return f"{millilitres:.0f} mL"
    return f"{millilitres:.1f} mL" if millilitres >= 1 else f"{millilitres:.2g} mL"


def _size(panel: Panel) -> tuple[float, float]:
    """Width and height in mm."""
    rows, columns = panel.pixels.shape
    return columns * panel.spacing[1], rows * panel.spacing[0]


def _tiny(cells: Sequence[Cell], scale: float) -> set[AnatomicalClass]:
    """Structures that are smaller than ``SMALL`` in every section."""
    areas = [
        (item, float(section.sum()) * (math.prod(cell.panel.spacing) * scale**2))
        for cell in cells
        for item, section in cell.sections.items()
    ]
    return {item for item, _ in areas} - {item for item, area in areas if area >= SMALL}


def _draw_cell(
    cell: Cell, axes: Axes, *, window: tuple[float, float], scale: float, bar: float, tiny: Collection[AnatomicalClass]
) -> None:
    panel = cell.panel
    width, height = _size(panel)
    axes.imshow(
        np.clip(panel.pixels, *window),  # before interpolation: bone and air must not ring
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        extent=(0, width, height, 0),
        interpolation="bicubic",
    )
    ordered = sorted(cell.sections.items(), key=lambda pair: pair[0].index)  # tumours over their organs
    paths = [(_rgb(item), outline(section, panel.spacing)) for item, section in ordered]
    for color, path in paths:  # add_patch would be slow: it computes the limits of every curve
        axes.add_artist(PathPatch(path, facecolor=(*color, 0.22), edgecolor="none"))
    for _, path in paths:  # a dark seam separates the colour from bone and neighbours
        axes.add_artist(PathPatch(path, fill=False, edgecolor=(0, 0, 0, 0.5), linewidth=2.4, clip_on=False))
    for color, path in paths:
        axes.add_artist(PathPatch(path, fill=False, edgecolor=color, linewidth=1.3, clip_on=False))
    for item, section in ordered:
        if item in tiny:
            _point_at(axes, section, panel.spacing, scale, _rgb(item))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")

    inset = 13 / scale
    edges = ((inset, height / 2), (width - inset, height / 2), (width / 2, inset), (width / 2, height - inset))
    wide, tall = width * scale >= THIN, height * scale >= THIN
    for letter, (x, y), fits in zip(panel.plane.letters, edges, (wide, wide, tall, tall), strict=True):
        if fits:
            _write(axes, x, y, letter, fontsize=12, fontweight="bold", ha="center", path_effects=HALO)
    if not (wide and tall):
        return
    x, y = 10 / scale, height - 12 / scale
    axes.add_patch(Rectangle((x, y - 2 / scale), bar, 4 / scale, facecolor=PALE, edgecolor="black", linewidth=0.7))
    _write(axes, x, y - 6 / scale, f"{bar / 10:g} cm", fontsize=9.5, va="bottom", path_effects=HALO)


def _point_at(axes: Axes, section: Mask, spacing: tuple[float, float], scale: float, color: Color) -> None:
    """Draw an arrow from below, on the side of the centre."""
    rows, columns = section.nonzero()
    x, y = (columns.mean() + 0.5) * spacing[1], (rows.mean() + 0.5) * spacing[0]
    side = 1 if columns.mean() < section.shape[1] / 2 else -1
    axes.annotate(
        "",
        (x + side * 8 / scale, y + 6 / scale),
        (x + side * 36 / scale, y + 25 / scale),
        arrowprops={"arrowstyle": "-|>,head_width=0.28,head_length=0.55", "color": color, "linewidth": 1.6},
        annotation_clip=False,
    )


def _columns(legend: Legend) -> list[tuple[float, Legend]]:
    """The most columns, filled from top to bottom, that fit side by side; each with its width in pixels."""
    for lines in range(1, len(legend) + 1):
        columns = [legend[start : start + lines] for start in range(0, len(legend), lines)]
        widths = [66 + CHARACTER * max(len(item.name) + len(text) for item, text in column) for column in columns]
        if sum(widths) <= WIDTH - MARGIN:
            return list(zip(widths, columns, strict=True))
    return []


def _draw_legend(page: Axes, columns: Sequence[tuple[float, Legend]], top: float) -> None:
    x = float(MARGIN)
    for width, column in columns:
        for line, (item, text) in enumerate(column):
            y, color = top + line * LINE, _rgb(item)
            box = FancyBboxPatch((x + 1, y - 6), 18, 12, boxstyle="round,pad=0,rounding_size=3", linewidth=1.6)
            box.set(facecolor=(*color, 0.35), edgecolor=color)
            page.add_patch(box)
            name = _write(page, x + 29, y, item.name, fontsize=11)
            beside = {"textcoords": "offset points", "color": DIM, "fontsize": 11, "va": "center"}
            page.annotate(text, (1, 0.5), (7, 0), xycoords=name, **beside)  # type: ignore[arg-type]
        x += width


def _write(axes: Axes, x: float, y: float, text: str, **style: object) -> Text:
    options = {"color": PALE, "va": "center_baseline", "parse_math": False} | style
    return axes.text(x, y, text, **options)  # type: ignore[arg-type]


def _rgb(item: AnatomicalClass) -> Color:
    red, green, blue = item.color
    return red / 255, green / 255, blue / 255
