"""Shared by the benchmarks: configs, processes, the machine, time and memory, and tables in pages."""

import os
import platform
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from custom.evaluation.report import write_text

ROOT = Path(__file__).resolve().parents[3]


def read_config(name: str, settings: Mapping[str, Any], *, bundle: str = "film_swinunetr") -> ConfigParser:
    """Read ``<name>.json`` of a bundle, with settings overridden."""
    parser = ConfigParser()
    parser.read_config(ROOT / "bundles" / bundle / "configs" / f"{name}.json")
    parser.update(pairs=dict(settings))
    return parser


def in_new_process(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, float, int]:
    """What a function returns in a process of its own, with the seconds and the peak memory (bytes) of that process."""
    start = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        result = pool.submit(function, *args, **kwargs).result()
        peak = pool.submit(peak_memory).result()
    return result, time.perf_counter() - start, peak


def peak_memory() -> int:
    """Peak memory of this process in bytes: the GPU's if torch used one, else resident memory (Linux)."""
    [resident] = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return torch.cuda.max_memory_allocated() or int(resident) * 1024


def describe_machine() -> str:
    """The processor or GPU that torch computes on, and torch's version."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.*)", info.read_text() if info.is_file() else "", re.MULTILINE)
    return f"{os.cpu_count()} cores of {(models or [platform.processor()])[0]}, no GPU, torch {torch.__version__}"


def markdown_table(headings: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    first, *others = (f"| {' | '.join(map(str, row))} |" for row in (headings, *rows))
    return "\n".join([first, "|---" * len(headings) + "|", *others])


def split_page(page: str | Path, section: str) -> tuple[str, str]:
    """The text of a Markdown page before and after what a benchmark writes, its two markers included.

    Raises:
        ValueError: a page without the markers of this section.
    """
    begin, end = (f"<!-- {section}: {edge} -->" for edge in ("begin", "end"))
    parts = re.split(f"({begin}|{end})", Path(page).read_text(encoding="utf-8"))
    if parts[1::2] != [begin, end]:
        raise ValueError(f"{page} must hold the lines {begin} and {end} once, in this order: tables go between them.")
    return parts[0] + begin, end + parts[-1]


def write_section(page: str | Path, section: str, content: str) -> None:
    """Replace what stands between the markers of a section of a page (see ``split_page``)."""
    before, after = split_page(page, section)
    write_text(Path(page), f"{before}\n{content}\n{after}")


class Stopwatch:
    """``seconds`` by stage; the time of a stage within another one is not the outer's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.running: list[str] = []

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Time a block, or the calls of a function that this decorates."""
        self.running.append(stage)
        start = time.perf_counter()
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            self.seconds[self.running.pop()] += seconds
            for outer in self.running[-1:]:
                self.seconds[outer] -= seconds
