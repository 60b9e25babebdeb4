"""Train and score Deep FiLM, Deep FiLM 2 and SwinUNETR on the hippocampus under one budget."""

from custom.tools.benchmarks.hippocampus import compare_hippocampus
from custom.tools.command_line import run_script

if __name__ == "__main__":
    run_script(compare_hippocampus)
