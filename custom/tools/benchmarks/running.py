"""Shared by the benchmarks: they run bundles as users do, name the machine, and write tables into pages."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from custom.utils.files import atomic_write

ROOT = Path(__file__).resolve().parents[3]


def run_bundle(command: str, name: str, configs: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Run ``python -m monai.bundle run`` in the repository's root, and print the command line.

    Args:
        command: "training" or "evaluating".
        name: of the bundle.
        configs: names of its config files, the later overlaying the earlier.
        settings: overrides.

    Raises:
        subprocess.CalledProcessError: the run failed.
    """
    files = [f"bundles/{name}/configs/{config}.json" for config in configs]
    arguments = [part for setting, value in settings.items() for part in (f"--{setting}", str(value))]
    config = files[0] if len(files) == 1 else str(files)
    line = [sys.executable, "-m", "monai.bundle", "run", command, "--config_file", config, *arguments]
    print(" ".join(line[1:]), flush=True)
    subprocess.run(line, cwd=ROOT, check=True)


def is_trained(checkpoint: Path, epochs: int) -> bool:
    """Whether a training's last checkpoint is of its last epoch."""
    return checkpoint.is_file() and torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"] >= epochs


def describe_machine() -> str:
    """The processor or GPU that torch computes on, and torch's version."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {(names or [platform.processor()])[0]}, no GPU, torch {torch.__version__}"


def peak_memory() -> int:
    """Peak memory of this process in bytes: the GPU's where torch has one, else resident memory (Linux)."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def table_header(*headings: str) -> list[str]:
    """The first two lines of a Markdown table."""
    return [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]


def split_page(page: str | Path, section: str) -> tuple[str, str]:
    """The text of a Markdown page before and after what a benchmark writes, its two markers included.

    Raises:
        ValueError: a page without the markers of this section.
    """
    text = Path(page).read_text(encoding="utf-8")
    begin, end = (f"<!-- {section}: {edge} -->" for edge in ("begin", "end"))
    if [text.count(begin), text.count(end)] != [1, 1] or text.index(begin) > text.index(end):
        raise ValueError(f"{page} must hold the lines {begin} and {end} once, in this order: tables go between them.")
    return text[: text.index(begin) + len(begin)], text[text.index(end) :]


def write_section(page: str | Path, section: str, content: str) -> None:
    """Replace what stands between the markers of a section of a page (see ``split_page``)."""
    before, after = split_page(page, section)
    with atomic_write(page) as temporary:
        temporary.write_text(f"{before}\n{content}\n{after}", encoding="utf-8")


class Stopwatch:
    """Seconds by stage, of the functions that it wraps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.running: set[str] = set()

    def time(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed as part of ``stage``; calls within the same stage count once."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if stage in self.running:
                return function(*args, **kwargs)
            self.running.add(stage)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.running.remove(stage)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

        return timed
