"""The tables and the figure of docs/benchmarks.md, from the measurements of ``custom.tools.benchmarks.inference``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from custom.tools.benchmarks.running import split_page, table_header, write_section
from custom.utils.files import atomic_write

SECTION = "benchmark"

#: Stages of our inference.
STAGES = ("read", "resample", "encode", "decode", "stitch", "write")

#: A measurement: ``wall`` seconds, ``peak_gib``, seconds of its ``stages``, ``machine``, ``date``. Ours also has
#: ``finished``, the seconds until each result; ``theirs``, the reference pipeline's measurement to compare with; and
#: ``times``, name and measurement of ours that it is given as a multiple of, or None.
Result = Mapping[str, Any]


def write_tables(results: Mapping[str, Result], agreement: Sequence[Mapping[str, Any]], page: Path) -> None:
    """Write the measurements into a page, and a figure into ``images`` beside it.

    Args:
        results: measurements by the name of their case.
        agreement: rows with the names of ``custom.tools.benchmarks.reference_pipeline.Agreement``.
        page: Markdown.

    Raises:
        ValueError: a page without markers.
    """
    split_page(page, SECTION)
    draw_cases(results, page.parent / "images" / "benchmark.png")
    ours = {name: result for name, result in results.items() if "finished" in result}
    machines = sorted({f"{result['machine']}, {result['date']}" for result in results.values()})
    lines = [f"{'; '.join(machines)}.", "", "![Wall time and peak memory of each case](images/benchmark.png)", ""]
    lines += table_header("case", "wall", "of theirs", "network and stitching", "of theirs", "peak memory", "of theirs")
    lines += [_row(name, result) for name, result in results.items()]
    lines += ["", *table_header("seconds of ours", *STAGES)]
    for name, result in ours.items():
        lines.append(" | ".join([f"| {name}", *(f"{result['stages'][stage]:.1f}" for stage in STAGES)]) + " |")
    for name, finished in ((name, result["finished"]) for name, result in ours.items()):
        if len(finished) > 1:
            rest = (finished[-1] - finished[0]) / (len(finished) - 1)
            first = f"{name}: the first result takes {finished[0]:.1f} s, each further one {rest:.1f} s "
            ratios = f"({rest / finished[0]:.2f}); all {len(finished)} take {finished[-1] / finished[0]:.2f}"
            lines += ["", f"{first}{ratios} times the first."]
    for name, result in ours.items():
        if result["times"]:
            other, base = result["times"]
            lines += ["", f"{name}: {result['wall'] / base['wall']:.2f} times as long as {other}."]
    if agreement:
        headings = ("ours in", "voxels", "Dice at working resolution", "on the CT's grid")
        lines += ["", *table_header("agreement, demonstration's weights", *headings)]
    for row in agreement:
        dice = f"{row['working']:.4f} | {row['grid']:.4f}"
        lines.append(f"| {row['name']} | {row['precision']} | {row['voxels']} | {dice} |")
    write_section(page, SECTION, "\n".join(lines))


def _row(name: str, result: Result) -> str:
    theirs = result.get("theirs")
    formats, own = ("{:.0f} s", "{:.0f} s", "{:.2f} GiB"), _figures(result)
    ratios = [f"{one / other:.2f}" for one, other in zip(own, _figures(theirs), strict=True)] if theirs else [""] * 3
    cells = [f"{form.format(one)} | {ratio}" for form, one, ratio in zip(formats, own, ratios, strict=True)]
    return f"| {name} | {' | '.join(cells)} |"


def _figures(result: Result) -> tuple[float, float, float]:
    """Seconds in all, seconds of the network with stitching, and GiB."""
    stages = result["stages"]
    network = sum(stages.get(stage, 0.0) for stage in ("network", "encode", "decode", "stitch"))
    return result["wall"], network, result["peak_gib"]


def draw_cases(results: Mapping[str, Result], path: Path) -> None:
    """Draw wall time and peak memory of each case as bars, ours and theirs in two colours, as PNG."""
    figure = Figure(figsize=(11, 0.9 + 0.34 * len(results)), layout="constrained", dpi=100)
    names, colours = list(results), ["#2a6f97" if "finished" in r else "#9a9a9a" for r in results.values()]
    for i, axes in enumerate(figure.subplots(1, 2, sharey=True)):
        bars = axes.barh(names, [result[("wall", "peak_gib")[i]] for result in results.values()], color=colours)
        axes.bar_label(bars, fmt=("%.0f", "%.2f")[i], padding=3, fontsize=9)
        axes.set_title(("wall, s", "peak memory, GiB")[i], loc="left", fontsize=10)
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].invert_yaxis()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
