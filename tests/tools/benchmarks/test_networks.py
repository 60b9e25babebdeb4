"""The comparison's measurements and its page; the trainings themselves are the bundles' own."""

import json
from pathlib import Path
from typing import Any

import pytest

from custom.tools.benchmarks import networks as benchmark
from custom.tools.benchmarks.networks import NETWORKS, TEXTS, cost, segment_window
from custom.tools.benchmarks.running import in_new_process


@pytest.mark.slow
def test_what_a_window_costs() -> None:
    figures = cost("small", rounds=1)
    assert list(figures) == list(NETWORKS)
    for figure in figures.values():
        assert figure["seconds"] > 0
    plain = figures["swinunetr"]
    for name in ("film_swinunetr", "film2_swinunetr"):  # linear maps of text: many parameters, hardly an operation
        assert plain["parameters"] < figures[name]["parameters"] < 1.2 * plain["parameters"]
        assert plain["flops"] < figures[name]["flops"] < 1.001 * plain["flops"]
    assert figures["universal_swinunetr"]["flops"] > 1.1 * plain["flops"]  # 32 heads
    result, seconds, peak = in_new_process(segment_window, "swinunetr", "small")
    assert result is None and seconds > 0
    assert 2**28 < peak < 2**31  # of that process alone; torch takes more than the former


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_tables_hold_the_figures_of_the_files(tmp_path: Path) -> None:
    for index, name in enumerate([*NETWORKS, *TEXTS]):
        reads = name not in ("swinunetr", "unetr", "universal_swinunetr")
        row = {"name": "all classes", "prompt_text": "canonical", "dice": 0.5 + index / 100, "dice_dataset": 0.4}
        row |= {"leakage": 10.05 if reads else None, "wrong_prompt_dice": 1.0 if reads else None}
        write(tmp_path / name / "eval" / "scores.json", [row | {"name": "liver"}, row, row | {"prompt_text": "raw"}])
    for size in ("small", "published"):
        costs = {
            name: {"parameters": 4e6, "flops": 5e9, "seconds": 1.5 if name == "unetr" else 3.0, "peak_bytes": 2**30}
            for name in NETWORKS
        }
        write(tmp_path / f"cost_{size}.json", {"date": "2026-11-21", "machine": "2 cores", "networks": costs})
    tables = benchmark._tables(tmp_path, epochs=8, texts=["film_swinunetr", "text_onehot"])
    assert tables.startswith("800 steps each. ")
    assert "costs measured 2026-11-21 on 2 cores" in tables
    lines = tables.splitlines()
    assert "| UNETR | n/a | .400 | n/a | n/a | 4.0 | 5 | 1.50 | 0.50 | 1.0 |" in lines
    assert "| UNETR | 4.0 | 5 | 1.50 | 0.50 | 1.0 |" in lines
    assert "| Deep FiLM 2 | .510 | .400 | 10.050 | 1.000 | 4.0 | 5 | 3.00 | 1.00 | 1.0 |" in lines
    assert [line for line in lines if line.startswith("| one-hot")] == [
        "| one-hot, mean of class vectors | .590 | .400 | 10.050 | 1.000 |"
    ]
    assert "CLIP" not in tables


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    benchmark._check_same(tmp_path / "training.json", {"max_epochs": 8, "dataset_dir": "a"})
    benchmark._check_same(tmp_path / "training.json", {"max_epochs": 8, "dataset_dir": "a"})
    with pytest.raises(ValueError, match=r"made with another max_epochs, seed: remove"):
        benchmark._check_same(tmp_path / "training.json", {"max_epochs": 4, "dataset_dir": "a", "seed": 1})


def test_a_page_without_its_markers_is_refused_before_any_work(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("before <!-- bench-models: begin --> after")
    with pytest.raises(ValueError, match="once, in this order"):
        benchmark.compare_networks(
            training_dir="none", test_dir="none", output_dir=str(tmp_path / "out"), results=str(page)
        )
    assert page.read_text() == "before <!-- bench-models: begin --> after"
    assert not (tmp_path / "out").exists()
