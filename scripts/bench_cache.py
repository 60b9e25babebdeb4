"""Disk space and loading time of a prepared case, compared with the references' 32-channel target."""

from custom.tools.benchmarks.case_cache import bench_cache
from custom.tools.command_line import run_script

if __name__ == "__main__":
    run_script(bench_cache)
