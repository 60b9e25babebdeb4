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
from matplotlib.figure import Figure

from custom.utils.files import atomic_write

ROOT = Path(__file__).resolve().parents[3]

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"

#: Of our way from a CT to masks.
STAGES = ("read", "resample", "encode", "decode", "stitch", "write")


def run_bundle(command: str, name: str, configs: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Run ``python -m monai.bundle run`` in the repository's root, and show the line.

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


def describe_machine() -> str:
    """The processor or GPU that torch computes on, and torch's version."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {(names or [platform.processor()])[0]}, no GPU, torch {torch.__version__}"


def measure_process(line: Sequence[str], *, log: Path) -> float:
    """Run a command; return its seconds.

    Raises:
        RuntimeError: it failed; the message names the log.
    """
    with log.open("w") as file:
        start = time.perf_counter()
        status = subprocess.run(line, stdout=file, stderr=file, check=False).returncode
        wall = time.perf_counter() - start
    if status:
        raise RuntimeError(f"{' '.join(line)} failed; see {log}.")
    return wall


def peak_memory() -> int:
    """The most bytes that this process has held, of the GPU's memory where torch has one (Linux)."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def write_tables(results: Mapping[str, Mapping[str, Any]], agreement: Sequence[Mapping[str, Any]], page: Path) -> None:
    """Put what is measured between a page's markers, and a picture into ``images`` beside the page.

    Args:
        results: by case, ``wall`` seconds, ``peak_gib``, seconds of ``stages``, ``machine``, ``date``; of ours besides
            ``answered``, seconds until each answer; ``theirs``, the result that it is to be compared with; ``times``,
            name and result of ours that it is a multiple of, or None.
        agreement: rows with the names of ``custom.tools.benchmarks.reference_flow.Agreement``.
        page: Markdown.

    Raises:
        ValueError: a page without markers.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} must hold the markers {BEGIN} and {END}, between which the tables go.")
    draw_cases(results, page.parent / "images" / "benchmark.png")
    told = sorted({f"{result['machine']}, {result['date']}" for result in results.values()})
    lines = [f"{'; '.join(told)}.", "", "![Wall time and peak memory of each case](images/benchmark.png)", ""]
    lines += [
        "| case | wall | of theirs | network and stitching | of theirs | peak memory | of theirs |",
        "|---" * 7 + "|",
    ]
    lines += [_row(name, result) for name, result in results.items()]
    ours = {name: result for name, result in results.items() if "answered" in result}
    lines += ["", f"| seconds of ours | {' | '.join(STAGES)} |", "|---" * (len(STAGES) + 1) + "|"]
    for name, result in ours.items():
        lines.append(" | ".join([f"| {name}", *(f"{result['stages'][stage]:.1f}" for stage in STAGES)]) + " |")
    several = {name: result["answered"] for name, result in ours.items() if len(result["answered"]) > 1}
    for name, answered in several.items():
        rest = (answered[-1] - answered[0]) / (len(answered) - 1)
        lines += ["", f"{name}: the first is answered after {answered[0]:.1f} s, each further one takes {rest:.1f} s "]
        lines[-1] += (
            f"({rest / answered[0]:.2f}); all {len(answered)} take {answered[-1] / answered[0]:.2f} times the first."
        )
    for name, result in ours.items():
        if result["times"]:
            other, base = result["times"]
            lines += ["", f"{name}: {result['wall'] / base['wall']:.2f} times as long as {other}."]
    if agreement:
        lines += [
            "",
            "| agreement, demonstration's weights | ours in | voxels | Dice at working resolution | on the CT's grid |",
        ]
        lines += ["|---" * 5 + "|"]
        for row in agreement:
            lines.append(
                f"| {row['name']} | {row['precision']} | {row['voxels']} | {row['working']:.4f} | {row['grid']:.4f} |"
            )
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    with atomic_write(page) as temporary:
        temporary.write_text("\n".join([f"{before}{BEGIN}", *lines, f"{END}{after}"]), encoding="utf-8")


def _row(name: str, result: Mapping[str, Any]) -> str:
    theirs = result.get("theirs")
    formats, own = ("{:.0f} s", "{:.0f} s", "{:.2f} GiB"), _figures(result)
    ratios = [f"{one / other:.2f}" for one, other in zip(own, _figures(theirs), strict=True)] if theirs else [""] * 3
    cells = [f"{form.format(one)} | {ratio}" for form, one, ratio in zip(formats, own, ratios, strict=True)]
    return f"| {name} | {' | '.join(cells)} |"


def _figures(result: Mapping[str, Any]) -> tuple[float, float, float]:
    """Seconds of all, and of the network with the stitching of its windows, and GiB."""
    stages = result["stages"]
    network = sum(stages.get(stage, 0.0) for stage in ("network", "encode", "decode", "stitch"))
    return result["wall"], network, result["peak_gib"]


def draw_cases(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the seconds and peak GiB of each case as bars, ours and theirs in two colours, as PNG."""
    figure = Figure(figsize=(11, 0.9 + 0.34 * len(results)), layout="constrained", dpi=100)
    names, colours = list(results), ["#2a6f97" if "answered" in r else "#9a9a9a" for r in results.values()]
    for i, axes in enumerate(figure.subplots(1, 2, sharey=True)):
        bars = axes.barh(names, [result[("wall", "peak_gib")[i]] for result in results.values()], color=colours)
        axes.bar_label(bars, fmt=("%.0f", "%.2f")[i], padding=3, fontsize=9)
        axes.set_title(("wall, s", "peak memory, GiB")[i], loc="left", fontsize=10)
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].invert_yaxis()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


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
