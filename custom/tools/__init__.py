"""What this repository runs and no exported bundle carries; only ``scripts/`` and the app import it.

``export``, ``conversion``, ``preparation``, ``phantoms`` and ``benchmarks``; ``command_line`` runs a function as a
script, ``architecture`` draws the figure of the networks. To add a tool: its function in one of these packages, and a
script of a few lines in ``scripts/`` that passes it to ``command_line.run_script``.
"""
