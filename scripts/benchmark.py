"""Benchmark inference from a CT to masks against the reference pipeline: time, memory, agreement."""

from custom.tools.benchmarks.inference import run_benchmark, segment_ours, segment_reference
from custom.tools.command_line import run_script

if __name__ == "__main__":
    run_script({"run": run_benchmark, "ours": segment_ours, "reference": segment_reference})
