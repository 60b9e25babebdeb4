"""Benchmarks and comparisons: inference, training speed, networks and text vectors, the cache, a baseline.

To add a benchmark: a module here with the function that measures, a script of a few lines in ``scripts/`` that calls it
through ``custom.tools.command_line.run_script``, and its section in a page of ``docs/``. ``running`` has the parts that
benchmarks share.
"""
