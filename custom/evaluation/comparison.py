"""Comparison of evaluations of the same cases: means, differences, and confidence intervals of both."""

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

#: Columns of cases.csv that can be compared.
FIGURES = ("dice", "raw_dice", "nsd", "hd95")


@dataclass(frozen=True)
class Comparison:
    """Means of several results for one class, or over all classes, and their differences from the first result.

    ``cases`` hold the class. The mean over all classes is that of their means; intervals are the low and high end of
    the 95 % confidence interval of each mean, and of each difference; NaN for a single case.
    """

    name: str
    cases: int
    means: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    differences: tuple[float, ...]
    difference_intervals: tuple[tuple[float, float], ...]


def compare(
    results: Sequence[str | Path], *, figure: str = "dice", resamples: int = 9999, seed: int = 0
) -> list[Comparison]:
    """Compare evaluations of the same cases, class by class and over all classes.

    Intervals are percentile bootstrap intervals. Cases are resampled with replacement, each with all its classes, and
    for a difference with its values in both results.

    Args:
        results: ``cases.csv`` files of evaluations, or their folders; each is compared with the first. A single one
            gets means and intervals only.
        figure: one of ``FIGURES``. For HD95, a case in which any result missed a class is left out of that class.
        resamples: of the bootstrap, at least 100; ``seed`` is that of the resampling.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no result, an unknown figure, a file that is not a cases.csv, or results on other cases.
    """
    if not results:
        raise ValueError("A comparison needs results: name folders of evaluations, or their cases.csv.")
    if figure not in FIGURES:
        raise ValueError(f"The figure must be one of {list(FIGURES)}, not {figure!r}.")
    if resamples < 100:
        raise ValueError(f"resamples must be at least 100 for an interval of 95 %, not {resamples}.")
    files = [Path(result) / "cases.csv" if Path(result).is_dir() else Path(result) for result in results]
    names, values = _read_results(files, figure)
    held = [column for column in range(len(names)) if not np.isnan(values[0, :, column]).all()]
    parts = [(names[column], values[:, :, [column]]) for column in held] + [("all classes", values)]
    return [_compare_class(name, part, resamples=resamples, seed=seed) for name, part in parts]


def _read_results(files: Sequence[Path], figure: str) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Names of the classes, and values (result, case, class); NaN in all results where one has none."""
    tables = [_read(file, figure) for file in files]
    for file, table in zip(files, tables, strict=True):
        if unlike := tables[0].keys() ^ table.keys():
            case, name = min(unlike)
            raise ValueError(
                f"Results must be on the same cases and classes; {files[0]} and {file} differ in {len(unlike)}, such "
                f"as {name!r} in {case!r}, which only {files[0] if (case, name) in tables[0] else file} has. "
                "Evaluate both on one split of one data set."
            )
    cases = sorted({case for case, _ in tables[0]})
    names = list(dict.fromkeys(name for _, name in tables[0]))
    values = np.array([table.get((case, name), np.nan) for table in tables for case in cases for name in names])
    values = values.reshape(len(tables), len(cases), len(names))
    values[:, np.isnan(values).any(0)] = np.nan
    return names, values


def _read(file: Path, figure: str) -> dict[tuple[str, str], float]:
    """The figure by case and class, for classes that the case holds; NaN where the class was missed.

    Cases are identified by their paths relative to their common folder, as the data may lie elsewhere on another
    machine.
    """
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if missing := {"case", "class", "dice", figure} - set(reader.fieldnames or ()):
            raise ValueError(f"{file} must be a cases.csv of an evaluation; it has no column {sorted(missing)[0]!r}.")
        rows = list(reader)
    if not rows:
        raise ValueError(f"{file} holds no case.")
    shared = os.path.commonpath([Path(row["case"]).parent for row in rows])
    held = [row for row in rows if row["dice"]]
    return {(os.path.relpath(row["case"], shared), row["class"]): float(row[figure] or math.nan) for row in held}


def _compare_class(name: str, values: npt.NDArray[np.float64], *, resamples: int, seed: int) -> Comparison:
    """Compare values (result, case, class), NaN where a case does not hold a class."""
    held = values[:, ~np.isnan(values[0]).all(1)]
    differences = held[1:] - held[0]
    return Comparison(
        name=name,
        cases=held.shape[1],
        means=tuple(_mean(held).tolist()),
        intervals=tuple(_interval(part, resamples=resamples, seed=seed) for part in held),
        differences=tuple(_mean(differences).tolist()),
        difference_intervals=tuple(_interval(part, resamples=resamples, seed=seed) for part in differences),
    )


def _interval(values: npt.NDArray[np.float64], *, resamples: int, seed: int) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of values (case, class)."""
    if len(values) < 2:
        return math.nan, math.nan
    resampled = bootstrap(
        (np.arange(len(values)),),
        lambda index, axis: _mean(values[index]),
        n_resamples=resamples,
        batch=max(1, 2**22 // values.size),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = np.nanpercentile(resampled.bootstrap_distribution, (2.5, 97.5))
    return float(low), float(high)


def _mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over classes of the means over the cases that hold them; values (..., case, class), NaN where not held."""
    held = (~np.isnan(values)).sum(-2)
    means = np.nansum(values, -2) / np.maximum(held, 1)
    mean: npt.NDArray[np.float64] = means.sum(-1) / (held > 0).sum(-1)
    return mean
