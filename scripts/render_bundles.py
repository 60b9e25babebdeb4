"""Format the bundles' configs, and render those of bundles that have an overlay.json."""

from custom.tools.command_line import run_script
from custom.tools.rendering import render_bundles

if __name__ == "__main__":
    run_script(render_bundles)
