"""The architecture figure of the documentation: names, shapes and FiLM sites come from the code."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from custom.networks.film_swin_unetr import VARIANTS, FiLMSwinUNETR
from custom.networks.swin_unetr import Features
from custom.utils.files import atomic_write

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "architecture.png"

#: Of the network that is run for its shapes, and of its image.
FEATURE_SIZE, TEXT_DIM, SIDE = 12, 384, 64

TITLES = {"film": "Deep FiLM", "film2": "Deep FiLM 2"}
IMAGE, TEXT, PLAIN = "#dbe7f0", "#d96c3f", "#f4f4f2"

#: Width and height of a box, and the distances between the two columns of the U and between its levels.
WIDTH, HEIGHT, APART, STEP = 2.2, 0.72, 3.9, 1.15


def shapes_of(variant: str) -> dict[str, tuple[int, ...]]:
    """Shapes (B, C, H, W, D) of everything between image and logits, by name, of a small network that runs."""
    network = FiLMSwinUNETR(1, 32, FEATURE_SIZE, TEXT_DIM, variant, window_size=4).eval()
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, x: torch.Tensor) -> torch.Tensor:
        shapes[name] = tuple(x.shape)
        return x

    network.decoder2.register_forward_hook(lambda _module, _inputs, x: note("dec0", x))
    with torch.no_grad():
        image = note("image", torch.zeros(1, 1, SIDE, SIDE, SIDE))
        features = network.encode(image)
        for name, feature in zip(Features._fields, features, strict=True):
            note(name.removesuffix("_inner").removesuffix("_residual"), feature)
        note("logits", network.out(network.up(features, note)))
    return shapes


def draw_architecture(output: str = str(PICTURE)) -> None:
    """Draw Deep FiLM and Deep FiLM 2 side by side, as PNG."""
    figure = Figure(figsize=(13, 7.6), dpi=110, layout="constrained")
    for axes, (variant, title) in zip(figure.subplots(1, len(TITLES)), TITLES.items(), strict=True):
        _draw(axes, variant, title)
    with atomic_write(output) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    print(output)


def _draw(axes: Axes, variant: str, title: str) -> None:
    block, sites = VARIANTS[variant]
    shapes = shapes_of(variant)
    levels = {name: (SIDE // shape[2]).bit_length() - 1 for name, shape in shapes.items()}
    lowest = max(levels, key=levels.__getitem__)
    down = [name for name in shapes if name.startswith(("enc", "hidden"))]
    up = sorted((name for name in shapes if name.startswith("dec") and name != lowest), reverse=True)
    columns = dict.fromkeys(down, 0.0) | dict.fromkeys(up, APART) | {lowest: APART / 2}
    at = {name: (x, -levels[name] * STEP) for name, x in columns.items()} | {"image": (0, STEP), "logits": (APART, 0)}
    floor, half = at[lowest][1], HEIGHT / 2

    for name, (x, y) in at.items():
        _box(axes, x, y, f"{name}\n{_size(shapes[name])}", IMAGE if name in ("image", "logits") else PLAIN)
    left, width = -0.75, 0.45  # of the trunk
    _box(axes, left, floor, "", IMAGE, width=width, height=STEP + HEIGHT - floor)
    middle = (left + 0.22, (floor + STEP) / 2)
    axes.text(*middle, "Swin encoder (swinViT)", rotation=90, ha="center", va="center", fontsize=9)
    _arrow(axes, (0, STEP + half), (left + width, STEP + half))
    _arrow(axes, (WIDTH / 2, STEP), (WIDTH / 2, at["enc0"][1] + HEIGHT))
    for name in (*down, lowest):
        if name != "enc0":  # which is of the image itself
            _arrow(axes, (left + width, at[name][1] + half), (at[name][0], at[name][1] + half))
    for name in down:  # skips
        _arrow(axes, (WIDTH, at[name][1] + half), (APART, at[name][1] + half))
    _arrow(axes, (at[lowest][0] + WIDTH, floor + half), (APART + WIDTH / 2, at[up[0]][1]), bend=0.25)
    for below, above in pairwise([*up, "logits"]):
        _arrow(axes, (APART + WIDTH / 2, at[below][1] + HEIGHT), (APART + WIDTH / 2, at[above][1]))

    mark = {"boxstyle": "round,pad=0.25", "facecolor": TEXT, "edgecolor": "none"}
    look: dict[str, Any] = {"fontsize": 8, "color": "white", "weight": "bold", "bbox": mark}
    for x, y in map(at.__getitem__, sites):
        axes.text(x + WIDTH - 0.1, y + HEIGHT - 0.02, "FiLM", ha="right", va="center", **look)
    film = r"$\gamma(t)\,x + \beta(t)$"
    formula = f"$y =$ {film}" if block.__name__ == "FiLM" else f"$y = x\\,+$ LayerNorm({film})"
    bottom, across = floor - 1.35, APART + WIDTH - left
    _box(axes, left, bottom, "“liver and both kidneys”  →  text encoder (frozen)  →  t (E)", "#f6dfd3", width=across)
    caption = f"{block.__name__} at {', '.join(sites)}:   {formula}"
    axes.text(across / 2 + left, bottom - 0.38, caption, ha="center", fontsize=9, color=TEXT)
    axes.set_title(f"{title}  (FiLMSwinUNETR, variant “{variant}”)", fontsize=12)
    axes.set(xlim=(-1.0, APART + WIDTH + 0.3), ylim=(bottom - 0.7, STEP + HEIGHT + 0.15), aspect="equal")
    axes.axis("off")


def _size(shape: tuple[int, ...]) -> str:
    """Channels as multiples of F, and the grid: "8F, H/16"."""
    channels = f"{shape[1] // FEATURE_SIZE}F".replace("1F", "F") if shape[1] % FEATURE_SIZE == 0 else f"{shape[1]}"
    return f"({channels}, H{f'/{SIDE // shape[2]}' if shape[2] < SIDE else ''}, ...)"


def _box(
    axes: Axes, x: float, y: float, text: str, colour: str, *, width: float = WIDTH, height: float = HEIGHT
) -> None:
    style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.1", "facecolor": colour, "edgecolor": "#555555"}
    axes.add_patch(FancyBboxPatch((x, y), width, height, linewidth=0.8, **style))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8.5)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, bend: float = 0) -> None:
    look = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=look | {"connectionstyle": f"arc3,rad={bend}"})
