"""Differences between evaluations, and their confidence intervals."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from custom.evaluation.comparison import compare
from custom.tools.benchmarks.evaluations import compare_results

Rows = list[dict[str, Any]]


def rows(dice: Mapping[tuple[str, str], float | None], root: str = "/data") -> Rows:
    return [
        {
            "case": f"{root}/{case}/ct.nii.gz",
            "dataset": "01",
            "class": name,
            "dice": value,
            "hd95": value and 10 * value,
        }
        for (case, name), value in dice.items()
    ]


def write(folder: Path, content: Rows) -> Path:
    folder.mkdir()
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(content[0]))
        writer.writeheader()
        writer.writerows(content)
    return folder


def test_a_certain_and_an_uncertain_difference(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    first = {(f"{n}", name): random.uniform(0.6, 0.9) for n in range(20) for name in ("liver", "spleen")}
    better = {key: value + (0.05 if key[1] == "liver" else random.normal(0, 0.05)) for key, value in first.items()}
    results = [
        write(tmp_path / "a", rows(first)),
        write(tmp_path / "b", rows(better, root="/elsewhere/data")),
    ]
    liver, spleen, overall = compare(results)
    assert [row.name for row in (liver, spleen, overall)] == ["liver", "spleen", "all classes"]
    assert {row.cases for row in (liver, spleen, overall)} == {20}
    assert liver.differences[0] == pytest.approx(0.05)
    assert liver.difference_intervals[0] == pytest.approx((0.05, 0.05)), "paired by case"
    difference = np.array([better[f"{n}", "spleen"] - first[f"{n}", "spleen"] for n in range(20)])
    assert spleen.differences[0] == pytest.approx(difference.mean())
    half = 1.96 * difference.std() / 20**0.5
    assert spleen.difference_intervals[0] == pytest.approx(
        (difference.mean() - half, difference.mean() + half), abs=half / 8
    )
    half = 1.96 * float(np.std([value for (_, name), value in first.items() if name == "liver"])) / 20**0.5
    assert liver.intervals[0] == pytest.approx((liver.means[0] - half, liver.means[0] + half), abs=half / 8)
    assert liver.intervals[1] == pytest.approx([end + 0.05 for end in liver.intervals[0]])
    assert overall.means == pytest.approx([np.mean(list(first.values())), np.mean(list(better.values()))])
    halved = [(value + 0.05) / 2 for value in spleen.difference_intervals[0]]
    assert overall.difference_intervals[0] == pytest.approx(halved, abs=1e-3)
    assert compare(results) == compare(results), "a seed makes it repeatable"
    assert compare(results, seed=1)[1] != spleen


def test_partly_labelled_cases_and_absent_classes(tmp_path: Path) -> None:
    """The overall mean is over classes, however many cases hold each; an absent class has no value."""
    first = {("1", "liver"): 0.5, ("2", "liver"): 0.7, ("3", "liver"): 0.6, ("3", "aorta"): 0.2, ("1", "aorta"): None}
    second = first | {("3", "aorta"): 0.4}
    results = [write(tmp_path / name, rows(dice)) for name, dice in (("a", first), ("b", second))]
    liver, aorta, overall = compare(results)
    assert (liver.cases, *liver.means, *liver.differences) == pytest.approx((3, 0.6, 0.6, 0))
    assert (aorta.cases, *aorta.means, *aorta.differences) == pytest.approx((1, 0.2, 0.4, 0.2))
    assert np.isnan([aorta.intervals, (*aorta.difference_intervals, (np.nan, np.nan))]).all()
    assert (overall.cases, *overall.means) == pytest.approx((3, 0.4, 0.5))
    assert overall.difference_intervals[0] == pytest.approx((0, 0.1)), (
        "some resamples have no aorta; in the others it differs by 0.2"
    )


def test_a_class_that_one_result_missed_has_no_distance_to_compare(tmp_path: Path) -> None:
    first, second = (rows({("1", "liver"): 0.5, ("2", "liver"): 0.7}) for _ in range(2))
    first[0]["hd95"] = None
    results = [write(tmp_path / name, content) for name, content in (("a", first), ("b", second))]
    liver, _ = compare(results, figure="hd95")
    assert (liver.cases, liver.means) == (1, (7, 7))


def test_results_on_other_cases_are_refused(tmp_path: Path) -> None:
    dice = {("1", "liver"): 0.5, ("2", "liver"): 0.7}
    one = write(tmp_path / "a", rows(dice))
    for name, other in (("b", dice | {("3", "liver"): 0.1}), ("c", dice | {("2", "spleen"): 0.1})):
        with pytest.raises(ValueError, match=rf"same cases and classes.*which only .*/{name}/cases.csv has"):
            compare([one, write(tmp_path / name, rows(other))])
    with pytest.raises(ValueError, match="needs results"):
        compare([])
    with pytest.raises(ValueError, match="figure must be one of"):
        compare([one, one], figure="leakage")
    with pytest.raises(ValueError, match="no column 'nsd'"):
        compare([one, one], figure="nsd")
    with pytest.raises(ValueError, match="at least 100"):
        compare([one, one], resamples=1)
    with pytest.raises(FileNotFoundError):
        compare([one, tmp_path / "nowhere.csv"])


def test_the_script_prints_and_writes_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = {("1", "liver"): 0.5, ("2", "liver"): 0.7, ("1", "aorta"): 0.4}
    results = [
        write(tmp_path / name, rows({key: value + more for key, value in first.items()}))
        for name, more in (("a", 0.0), ("b", 0.1), ("c", -0.2))
    ]
    compare_results(*map(str, results), output_dir=str(tmp_path / "comparison"), resamples=200, seed=3)
    printed = capsys.readouterr().out
    assert "200 resamples, seed 3" in printed
    assert "+0.100 (+0.100 to +0.100)" in printed
    with (tmp_path / "comparison" / "comparison.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["class"], row["cases"]) for row in table[::3]] == [
        ("liver", "2"),
        ("aorta", "1"),
        ("all classes", "2"),
    ]
    assert [round(float(row["difference"]), 9) for row in table] == [0, 0.1, -0.2] * 3
    text = (tmp_path / "comparison" / "comparison.md").read_text()
    assert "| liver | 2 | 0.600 (0.500 to 0.700) | 0.700 (0.600 to 0.800) | +0.100 (+0.100 to +0.100) | 0.400" in text
    assert "| aorta | 1 | 0.400 | 0.500 | +0.100 | 0.200 | -0.200 |" in text
    compare_results(str(results[0]), resamples=200)
    assert "0.600 (0.500 to 0.700)" in (printed := capsys.readouterr().out)
    assert " a " in printed
