"""Score the baselines that need no network: HU thresholds plus mean position per class."""

from custom.tools.benchmarks.position_baseline import score_baseline
from custom.tools.command_line import run_script

if __name__ == "__main__":
    run_script(score_baseline)
