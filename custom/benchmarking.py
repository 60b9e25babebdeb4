"""What the comparisons in ``scripts/`` share: they run bundles as users do, and say on which machine."""

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

ROOT = Path(__file__).resolve().parents[1]


def run_bundle(command: str, name: str, configs: Sequence[str], knobs: Mapping[str, Any]) -> None:
    """Run ``python -m monai.bundle run`` in the repository's root, and show the line.

    Args:
        command: "training" or "evaluating".
        name: of the bundle.
        configs: names of its config files, the later overlaying the earlier.
        knobs: overrides.

    Raises:
        subprocess.CalledProcessError: the run failed.
    """
    files = [f"bundles/{name}/configs/{config}.json" for config in configs]
    arguments = [part for knob, value in knobs.items() for part in (f"--{knob}", str(value))]
    config = files[0] if len(files) == 1 else str(files)
    line = [sys.executable, "-m", "monai.bundle", "run", command, "--config_file", config, *arguments]
    print(" ".join(line[1:]), flush=True)
    subprocess.run(line, cwd=ROOT, check=True)


def describe_machine() -> str:
    """The processor or GPU that torch computes on, and torch's version."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {(names or [platform.processor()])[0]}, no GPU, torch {torch.__version__}"


class Stages:
    """Seconds by stage, of functions that are watched."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.running: set[str] = set()

    def watch(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if stage in self.running:  # counted already
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

        return watched
