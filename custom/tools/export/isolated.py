"""Runs an exported bundle's code in processes that find the bundle's own package and no other of that name."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from custom.bundle.root import BundleError

#: Prints which properties of a workflow MONAI misses.
PROPERTIES = """
import sys
from monai.bundle import ConfigWorkflow
folder, kind, config, *overrides = sys.argv[1:]
workflow = ConfigWorkflow(
    config_file=f"{folder}/configs/{config}.json", workflow_type=kind, logging_file=False,
    **dict(override.split("=", 1) for override in overrides),
)
workflow.initialize()
print("MISSING", *workflow.check_properties())
"""

#: Loads a bundle's network as other programs do, and saves the logits of one image. MONAI would ignore what does not
#: fit; the strict loading does not.
LOAD = """
import sys, torch, monai.bundle
name, folder, shape, output = sys.argv[1:]
network = monai.bundle.load(name, bundle_dir=folder).eval()
state = torch.load(f"{folder}/{name}/models/model.pt", weights_only=True)
network.load_state_dict(state, strict=True)
image = torch.rand(1, 1, *map(int, shape.split(",")), generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    torch.save(network(image.to(next(network.parameters()).device)).cpu(), output)
"""


def input_shape(folder: Path) -> list[int]:
    """Sides (H, W, D) of the input image in a bundle's metadata."""
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    shape: list[int] = metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
    return shape


def loaded_logits(folder: Path, output: Path, *, python: str = sys.executable) -> torch.Tensor:
    """Logits of the network that ``monai.bundle.load`` builds, for one image of random numbers.

    Args:
        folder: a bundle, whose own package is used.
        output: a file for them.
        python: the interpreter of the environment.
    """
    shape = ",".join(map(str, input_shape(folder)))
    _python(folder, "-c", LOAD, folder.name, str(folder.parent), shape, str(output), python=python)
    logits: torch.Tensor = torch.load(output, weights_only=True)
    return logits


def missing_properties(folder: Path, kind: str, config: str, *overrides: str) -> list[str]:
    """The properties that MONAI's ``check_properties`` misses in a workflow.

    Args:
        folder: the bundle.
        kind: of workflow, ``infer`` or ``train``.
        config: the name of its config.
        overrides: ``setting=text``, each.
    """
    printed = _python(folder, "-c", PROPERTIES, str(folder), kind, config, f"bundle_root={folder}", *overrides)
    return next(line.split()[1:] for line in reversed(printed.splitlines()) if line.startswith("MISSING"))


def run_monai(folder: Path, command: str, *arguments: str) -> None:
    """Run a command of ``monai.bundle`` on a bundle's inference config."""
    configs = folder / "configs"
    _python(
        folder,
        *("-m", "monai.bundle", command, *arguments, "--bundle_root", str(folder)),
        *("--meta_file", str(configs / "metadata.json"), "--config_file", str(configs / "inference.json")),
    )


def _python(folder: Path, *arguments: str, python: str = sys.executable) -> str:
    """Run Python in an empty folder with the bundle's own package; the last line of its errors becomes the fault."""
    own = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [python, *arguments],
            cwd=elsewhere,
            env=os.environ | own,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise BundleError(
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with {done.returncode}"
        )
    return done.stdout
