"""The benchmark of the cache: its table has every way to store a case."""

import pytest

from custom.tools.benchmarks.case_cache import benchmark_cache


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark_cache(spacing=8.0, original=12.0, repeats=1)
    table = capsys.readouterr().out
    assert all(kind in table for kind in ("from NIfTI", "32-channel target", "prepared case"))
    off = float(table.partition("at most ")[2].split()[0])
    assert 0 < off < 0.11  # HU
