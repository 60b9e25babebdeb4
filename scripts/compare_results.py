"""Compare evaluations of the same cases: means, differences, and their intervals."""

import math
import os
from pathlib import Path

import fire
from rich.console import Console
from rich.table import Table

from custom.evaluation.comparing import Difference, compare
from custom.outputs.scores import as_csv, write_text


def compare_results(
    *results: str, output_dir: str | None = None, figure: str = "dice", resamples: int = 9999, seed: int = 0
) -> None:
    """Compare evaluations with the first of them, by class and over all classes, with paired bootstrap 95 % intervals.

    Prints a table; with an output folder, writes comparison.csv and comparison.md there.

    Example: python scripts/compare_results.py runs/film/eval runs/swinunetr/eval --output_dir runs/comparison

    Args:
        results: Folders of evaluations, or their cases.csv files; all on the same cases.
        output_dir: Where the two files go.
        figure: dice, raw_dice (before post-processing), nsd or hd95.
        resamples: How often the cases are drawn with replacement.
        seed: Of the draws.
    """
    rows = compare(results, figure=figure, resamples=resamples, seed=seed)
    shared = os.path.commonpath([Path(result).absolute() for result in results])
    names = [os.path.relpath(result, shared) for result in results]
    headings = ["class", "cases", names[0]]
    for other in names[1:]:
        headings += [other, "difference", "95 % interval"]
    table = Table(
        title=f"Mean {figure}; differences from the first",
        caption=f"paired bootstrap over cases, percentile interval, {resamples} resamples, seed {seed}",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for row in rows:
        table.add_row(*_cells(row))
    Console(width=max(Console().width, 130)).print(table)
    if output_dir is None:
        return
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1)]
    markdown = "\n".join("| " + " | ".join(line) + " |" for line in [*lines, *map(_cells, rows)])
    write_text(Path(output_dir) / "comparison.md", f"{table.title}; {table.caption}.\n\n{markdown}\n")
    write_text(Path(output_dir) / "comparison.csv", as_csv(_records(rows, names)))
    print(f"Written: {output_dir}/comparison.md, comparison.csv")


def _cells(row: Difference) -> list[str]:
    cells = [row.name, str(row.cases), f"{row.means[0]:.3f}"]
    for mean, difference, (low, high) in zip(row.means[1:], row.differences, row.intervals, strict=True):
        interval = "n/a" if math.isnan(low) else f"{low:+.3f} to {high:+.3f}"
        cells += [f"{mean:.3f}", f"{difference:+.3f}", interval]
    return cells


def _records(rows: list[Difference], names: list[str]) -> list[dict[str, object]]:
    """A row per class and result."""
    return [
        {"class": row.name, "cases": row.cases, "result": name, "mean": mean}
        | {"difference": difference, "low": low, "high": high}
        for row in rows
        for name, mean, difference, (low, high) in zip(
            names, row.means, (0.0, *row.differences), ((0.0, 0.0), *row.intervals), strict=True
        )
    ]


if __name__ == "__main__":
    fire.Fire(compare_results)
