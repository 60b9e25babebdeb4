"""Benchmarks: inference, networks and text, training, the cache, the hippocampus in MR, baselines without a network."""

from custom.tools.benchmarks.case_cache import benchmark_cache
from custom.tools.benchmarks.hippocampus import compare_hippocampus
from custom.tools.benchmarks.inference import benchmark_inference
from custom.tools.benchmarks.networks import compare_networks
from custom.tools.benchmarks.position_baseline import score_baseline
from custom.tools.benchmarks.training import benchmark_training
from custom.tools.command_line import run_script

if __name__ == "__main__":
    run_script(
        {
            "inference": benchmark_inference,
            "networks": compare_networks,
            "training": benchmark_training,
            "cache": benchmark_cache,
            "hippocampus": compare_hippocampus,
            "baseline": score_baseline,
        }
    )
