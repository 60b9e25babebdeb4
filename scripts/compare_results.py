"""Compare evaluations of the same cases: means, differences, and their intervals."""

from custom.tools.benchmarks.evaluations import compare_results
from custom.tools.command_line import run_script

if __name__ == "__main__":
    run_script(compare_results)
