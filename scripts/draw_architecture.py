"""Draw the architecture figure of the documentation from the code."""

from custom.tools.architecture import draw_architecture
from custom.tools.command_line import run_script

if __name__ == "__main__":
    run_script(draw_architecture)
