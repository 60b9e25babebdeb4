"""Make a small file of trained weights to ship: half precision, with its provenance."""

from custom.tools.command_line import run_script
from custom.tools.export.shipped_weights import ship_weights

if __name__ == "__main__":
    run_script(ship_weights)
