"""Compare the networks, and kinds of text, under one budget: train, evaluate, measure, and print one table."""

from custom.tools.benchmarks.networks import compare, cost
from custom.tools.command_line import run_script

if __name__ == "__main__":
    run_script({"compare": compare, "cost": cost})
