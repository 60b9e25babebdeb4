"""Benchmarks and comparisons: inference, training speed, networks and text vectors, the cache, a baseline.

To add a benchmark: a module here with the function that measures, its line in ``scripts/benchmark.py``, and its section
in a page of ``docs/``. ``running`` has the parts that benchmarks share.
"""
