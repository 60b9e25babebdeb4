"""The architecture figure of the documentation: names, shapes and FiLM sites come from the code."""

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
    """Draw Deep FiLM and Deep FiLM 2 side by side, as PNG.

    Args:
        output: The file to write.
    """
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
    lowest = max(levels, key=lambda name: levels[name])
    down = [name for name in shapes if name.startswith(("enc", "hidden"))]
    up = sorted((name for name in shapes if name.startswith("dec") and name != lowest), reverse=True)
    middle = WIDTH / 2 + APART / 2
    at = {name: (0.0, -levels[name] * STEP) for name in down} | {name: (APART, -levels[name] * STEP) for name in up}
    at |= {lowest: (middle - WIDTH / 2, -levels[lowest] * STEP), "image": (0, STEP), "logits": (APART, 0)}

    for name, (x, y) in at.items():
        _box(axes, x, y, f"{name}\n{_size(shapes[name])}", IMAGE if name in ("image", "logits") else PLAIN)
    trunk = (-0.75, -levels[lowest] * STEP)
    _box(axes, *trunk, "", IMAGE, width=0.45, height=STEP + HEIGHT - trunk[1])
    x, y = trunk[0] + 0.22, (trunk[1] + STEP) / 2
    axes.text(x, y, "Swin encoder (swinViT)", rotation=90, ha="center", va="center", fontsize=9)
    _arrow(axes, (0, STEP + HEIGHT / 2), (trunk[0] + 0.45, STEP + HEIGHT / 2))
    _arrow(axes, (WIDTH / 2, STEP), (WIDTH / 2, at["enc0"][1] + HEIGHT))
    for name in (*down, lowest):
        if name != "enc0":  # which is of the image itself
            _arrow(axes, (trunk[0] + 0.45, at[name][1] + HEIGHT / 2), (at[name][0], at[name][1] + HEIGHT / 2))
    for name in down:  # skips
        _arrow(axes, (WIDTH, at[name][1] + HEIGHT / 2), (APART, at[name][1] + HEIGHT / 2))
    _arrow(axes, (at[lowest][0] + WIDTH, at[lowest][1] + HEIGHT / 2), (APART + WIDTH / 2, at[up[0]][1]), bend=0.25)
    for below, above in zip(up, [*up[1:], "logits"], strict=True):
        _arrow(axes, (APART + WIDTH / 2, at[below][1] + HEIGHT), (APART + WIDTH / 2, at[above][1]))

    mark: dict[str, Any] = {"boxstyle": "round,pad=0.25", "facecolor": TEXT, "edgecolor": "none"}
    for site in sites:
        x, y = at[site][0] + WIDTH - 0.1, at[site][1] + HEIGHT - 0.02
        axes.text(x, y, "FiLM", ha="right", va="center", fontsize=8, color="white", weight="bold", bbox=mark)
    film = r"$\gamma(t)\,x + \beta(t)$"
    formula = f"$y =$ {film}" if block.__name__ == "FiLM" else f"$y = x\\,+$ LayerNorm({film})"
    bottom, width = -levels[lowest] * STEP - 1.35, APART + WIDTH + 0.75
    sentence = "“liver and both kidneys”  →  text encoder (frozen)  →  t (E)"
    _box(axes, -0.75, bottom, sentence, "#f6dfd3", width=width)
    caption = f"{block.__name__} at {', '.join(sites)}:   {formula}"
    axes.text(width / 2 - 0.75, bottom - 0.38, caption, ha="center", fontsize=9, color=TEXT)
    axes.set_title(f"{title}  (FiLMSwinUNETR, variant “{variant}”)", fontsize=12)
    axes.set_xlim(-1.0, APART + WIDTH + 0.3)
    axes.set_ylim(bottom - 0.7, STEP + HEIGHT + 0.15)
    axes.set_aspect("equal")
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
    look: dict[str, Any] = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=look | {"connectionstyle": f"arc3,rad={bend}"})
