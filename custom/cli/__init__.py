"""What the commands of ``python -m custom`` do.

``commands`` runs a bundle's inference workflow and prints the results; arguments, help and exit codes are in
``custom/__main__.py``. To add a command: a function in ``commands`` that returns the exit code, and its parser and call
in ``__main__``.
"""
