"""Samples a second in training: the references' pipeline in stock MONAI, and ours, one change after the other."""

from custom.tools.benchmarks.training import bench_training
from custom.tools.command_line import run_script

if __name__ == "__main__":
    run_script(bench_training)
