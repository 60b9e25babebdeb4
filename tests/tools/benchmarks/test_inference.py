"""The page of the benchmark holds what was measured, and its ratios."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from custom.tools.benchmarks.inference_page import write_page
from custom.tools.benchmarks.running import Stopwatch


def write_result(home: Path, name: str, **result: Any) -> None:
    folder = home / name.replace(" ", "_").replace(",", "")
    folder.mkdir()
    machine = {"machine": "a machine", "date": "2026-11-22"}
    (folder / "result.json").write_text(json.dumps(machine | result))


def test_ratios_compare_with_the_reference_pipeline_on_the_same_image(tmp_path: Path) -> None:
    stages = {"read": 1, "resample": 2, "encode": 30, "decode": 20, "stitch": 1, "write": 1}
    write_result(tmp_path, "references", wall=200, peak_gib=8, stages={"network": 190})
    write_result(tmp_path, "references, middle", wall=50, peak_gib=2, stages={"network": 45})
    write_result(tmp_path, "one class", wall=100, peak_gib=2, stages=stages, finished=[90])
    write_result(tmp_path, "one class, four CTs", wall=350, peak_gib=3, stages=stages, finished=[340])
    write_result(tmp_path, "one class, middle", wall=100, peak_gib=1, stages=stages, finished=[20, 30, 40, 50])
    rows = [{"name": "liver", "precision": "float32", "voxels": 6000, "working": 0.999, "grid": 0.998}]
    (tmp_path / "agreement.json").write_text(json.dumps(rows))
    page = tmp_path / "page.md"
    page.write_text("before <!-- benchmark: begin --> old <!-- benchmark: end --> after")
    write_page(tmp_path, page)
    text = page.read_text()
    assert text.startswith("before ") and text.endswith(" after") and "old" not in text
    assert "| one class | 100 s | 0.50 | 51 s | 0.27 | 2.00 GiB | 0.25 |" in text
    assert "| one class, middle | 100 s | 2.00 | 51 s | 1.13 | 1.00 GiB | 0.50 |" in text
    assert "| one class | 1.0 | 2.0 | 30.0 | 20.0 | 1.0 | 1.0 |" in text
    assert "each further one 10.0 s (0.50); all 4 take 2.50 times the first." in text
    assert "one class, four CTs: 3.50 times as long as one class." in text
    assert "| liver | float32 | 6000 | 0.9990 | 0.9980 |" in text
    assert imread(tmp_path / "images" / "benchmark.png").shape[1] == 1100
    page.write_text("no markers")
    with pytest.raises(ValueError, match="must hold the lines"):
        write_page(tmp_path, page)


def test_nested_calls_of_a_stage_count_once() -> None:
    stopwatch = Stopwatch()

    @stopwatch.time("encode")
    def wait(times: int) -> int:
        time.sleep(0.1)
        return 1 + wait(times - 1) if times else 0

    assert wait(2) == 2
    assert list(stopwatch.seconds) == ["encode"] and not stopwatch.running
    assert 0.3 <= stopwatch.seconds["encode"] < 0.6


def test_a_stage_within_another_is_not_part_of_it() -> None:
    stopwatch = Stopwatch()
    with stopwatch.time("stitch"), stopwatch.time("encode"):
        time.sleep(0.2)
    assert stopwatch.seconds["encode"] >= 0.2 > 0.1 > stopwatch.seconds["stitch"] >= 0
