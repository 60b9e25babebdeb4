"""A table that compares evaluations of the same cases: means, differences, and their intervals."""

import math
import os
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from custom.evaluation.comparison import Comparison, compare
from custom.evaluation.report import as_csv, write_text


def compare_results(
    *results: str, output_dir: str | None = None, figure: str = "dice", resamples: int = 9999, seed: int = 0
) -> None:
    """Means by class and over all classes, and differences from the first result, with bootstrap 95 % intervals.

    Prints a table; with an output folder, writes comparison.csv and comparison.md there.

    Example: python scripts/compare_results.py runs/film/eval runs/swinunetr/eval --output_dir runs/comparison

    Args:
        results: Folders of evaluations, or their cases.csv files, one or more; all on the same cases.
        output_dir: Where the two files go.
        figure: dice, raw_dice (before post-processing), nsd or hd95.
        resamples: Number of bootstrap resamples of the cases, drawn with ``seed``.
    """
    rows = compare(results, figure=figure, resamples=resamples, seed=seed)
    shared = os.path.commonpath([Path(result).absolute().parent for result in results])
    names = [os.path.relpath(result, shared) for result in results]
    headings = ["class", "cases", names[0], *(heading for name in names[1:] for heading in (name, "difference"))]
    table = Table(
        *(Column(heading, justify="left" if heading == "class" else "right") for heading in headings),
        title=f"Mean {figure}; differences from the first",
        caption=f"(95 % interval: bootstrap over cases, paired for differences, {resamples} resamples, seed {seed})",
    )
    cells = [_cells(row) for row in rows]
    for line in cells:
        table.add_row(*line)
    Console(width=Console(width=1000).measure(table).maximum).print(table)  # wider than the terminal where necessary
    if output_dir is None:
        return
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *cells]
    markdown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(Path(output_dir) / "comparison.md", f"{table.title}; {table.caption}.\n\n{markdown}\n")
    write_text(Path(output_dir) / "comparison.csv", as_csv(_records(rows, names)))
    print(f"Written: {output_dir}/comparison.md, comparison.csv")


def _cells(row: Comparison) -> list[str]:
    cells = [row.name, str(row.cases), _cell(row.means[0], row.intervals[0])]
    others = zip(row.means[1:], row.intervals[1:], row.differences, row.difference_intervals, strict=True)
    for mean, interval, difference, its_interval in others:
        cells += [_cell(mean, interval), _cell(difference, its_interval, "+")]
    return cells


def _cell(value: float, interval: tuple[float, float], sign: str = "") -> str:
    low, high = interval
    return f"{value:{sign}.3f}" + ("" if math.isnan(low) else f" ({low:{sign}.3f} to {high:{sign}.3f})")


def _records(rows: list[Comparison], names: list[str]) -> list[dict[str, object]]:
    """A row per class and result."""
    columns = ("class", "cases", "result", "mean", "low", "high", "difference", "difference_low", "difference_high")
    records = []
    for row in rows:
        differences = zip((0.0, *row.differences), ((0.0, 0.0), *row.difference_intervals), strict=True)
        for name, mean, ends, (difference, own) in zip(names, row.means, row.intervals, differences, strict=True):
            values = (row.name, row.cases, name, mean, *ends, difference, *own)
            records.append(dict(zip(columns, values, strict=True)))
    return records
