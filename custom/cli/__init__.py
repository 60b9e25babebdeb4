"""``python -m custom``, and how the command lines of ``scripts/`` are read."""
