"""What the benchmark of inference compares, and its page: docs/benchmarks.md."""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from custom.anatomy.loading import load_class_set
from custom.tools.benchmarks.running import markdown_table, write_section
from custom.utils.files import atomic_write

SECTION = "benchmark"
NAMES = load_class_set().names

#: Stages of our inference.
STAGES = ("read", "resample", "encode", "decode", "stitch", "write")

#: A measurement: ``wall`` seconds, ``peak_gib``, seconds of its ``stages``, ``machine``, ``date``, and, of ours,
#: ``finished``: the seconds until each result.
Result = Mapping[str, Any]


class Case(NamedTuple):
    """A row of the comparison."""

    prompts: tuple[str, ...]  # segmented one after the other in one process; none: the reference pipeline, all classes
    part: str = "whole"  # of the CT; or "middle" (half of each side), "four" (four copies, one on top of the other)
    cache_gib: float = 0  # memory for encoded windows


CASES = {
    "references": Case(()),
    "one class": Case(("liver",)),
    "8 classes": Case((", ".join(NAMES[:8]),)),
    "16 classes": Case((", ".join(NAMES[:16]),)),
    "32 classes": Case((", ".join(NAMES),)),
    "two prompts": Case(("liver", "spleen"), cache_gib=8),
    "two prompts, 4 GiB for features": Case(("liver", "spleen"), cache_gib=4),
    "eight prompts": Case(NAMES[:8], cache_gib=8),
    "one class, four CTs": Case(("liver",), "four"),
    "references, middle": Case((), "middle"),
    "one class, middle": Case(("liver",), "middle"),
    "32 classes, middle": Case((", ".join(NAMES),), "middle"),
}


def result_file(folder: Path, name: str) -> Path:
    """Where the measurement of a case is."""
    return folder / name.replace(" ", "_").replace(",", "") / "result.json"


def write_page(folder: Path, page: Path) -> None:
    """Write the measurements in a folder into a page, and a figure into ``images`` beside it.

    Raises:
        ValueError: a page without markers.
    """
    files = {name: result_file(folder, name) for name in CASES}
    results: dict[str, Result] = {name: json.loads(file.read_bytes()) for name, file in files.items() if file.is_file()}
    ours = {name: result for name, result in results.items() if CASES[name].prompts}
    machines = sorted({f"{result['machine']}, {result['date']}" for result in results.values()})
    compared = ("case", "wall", "of theirs", "network and stitching", "of theirs", "peak memory", "of theirs")
    blocks = [
        f"{'; '.join(machines)}.",
        "![Wall time and peak memory of each case](images/benchmark.png)",
        markdown_table(compared, _rows(results)),
        markdown_table(
            ("seconds of ours", *STAGES),
            [(name, *(f"{result['stages'][stage]:.1f}" for stage in STAGES)) for name, result in ours.items()],
        ),
    ]
    for name, finished in ((name, result["finished"]) for name, result in ours.items()):
        if len(finished) > 1:
            rest = (finished[-1] - finished[0]) / (len(finished) - 1)
            first = f"{name}: the first result takes {finished[0]:.1f} s, each further one {rest:.1f} s "
            ratios = f"({rest / finished[0]:.2f}); all {len(finished)} take {finished[-1] / finished[0]:.2f}"
            blocks.append(f"{first}{ratios} times the first.")
    for name, other in ((name, name.removesuffix(", four CTs")) for name in ours):
        if other != name and other in ours:
            blocks.append(f"{name}: {ours[name]['wall'] / ours[other]['wall']:.2f} times as long as {other}.")
    if (file := folder / "agreement.json").is_file():
        headings = ("agreement, demonstration's weights", "ours in", "voxels")
        rows = [
            (row["name"], row["precision"], row["voxels"], f"{row['working']:.4f}", f"{row['grid']:.4f}")
            for row in json.loads(file.read_bytes())
        ]
        blocks.append(markdown_table((*headings, "Dice at working resolution", "on the CT's grid"), rows))
    write_section(page, SECTION, "\n\n".join(blocks))
    draw_cases(results, page.parent / "images" / "benchmark.png")


def _rows(results: Mapping[str, Result]) -> list[list[str]]:
    """For each case, wall time, time of the network and memory, each followed by its ratio to the references'."""
    figures = {}
    for name, result in results.items():
        network = sum(result["stages"].get(stage, 0.0) for stage in ("network", "encode", "decode", "stitch"))
        figures[name] = (result["wall"], network, result["peak_gib"])
    theirs = {CASES[name].part: own for name, own in figures.items() if not CASES[name].prompts}
    rows = []
    for name, own in figures.items():
        other = theirs.get(CASES[name].part) if CASES[name].prompts else None
        ratios = [f"{a / b:.2f}" for a, b in zip(own, other, strict=True)] if other else [""] * 3
        texts = (f"{own[0]:.0f} s", f"{own[1]:.0f} s", f"{own[2]:.2f} GiB")
        rows.append([name, *chain.from_iterable(zip(texts, ratios, strict=True))])
    return rows


def draw_cases(results: Mapping[str, Result], path: Path) -> None:
    """Draw wall time and peak memory of each case as bars, ours and theirs in two colours, as PNG."""
    figure = Figure(figsize=(11, 0.9 + 0.34 * len(results)), layout="constrained", dpi=100)
    colours = ["#2a6f97" if CASES[name].prompts else "#9a9a9a" for name in results]
    columns = {"wall": ("wall, s", "%.0f"), "peak_gib": ("peak memory, GiB", "%.2f")}
    for axes, (key, (title, form)) in zip(figure.subplots(1, 2, sharey=True), columns.items(), strict=True):
        bars = axes.barh(list(results), [result[key] for result in results.values()], color=colours)
        axes.bar_label(bars, fmt=form, padding=3, fontsize=9)
        axes.set_title(title, loc="left", fontsize=10)
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].invert_yaxis()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
