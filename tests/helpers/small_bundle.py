"""A small network's files, and the bundle's configs run with it in the test's own process."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from monai.bundle import ConfigWorkflow

from custom.utils.errors import root_cause
from tests.helpers import CONFIGS

#: Raw values kept in the small data set; value 27 is tumour and liver.
SMALL_LABELS = {"1": "spleen", "2": "right kidney", "3": "left kidney", "6": "liver", "27": ["liver tumor", "liver"]}


class Small(NamedTuple):
    """Files of a small network with random weights, for a working resolution of 12 mm, and of its prompts' vectors."""

    weights: Path
    local_weights: Path  # of a network that answers voxel by voxel, by intensity alone
    text_bank: Path


class Bundle:
    """The bundle's configs run in this process, as ``python -m monai.bundle run`` would."""

    def __init__(self, small: Small) -> None:
        self.small = small

    def run(self, *names: str, **overrides: Any) -> None:
        files = {"weights": str(self.small.weights), "text_bank": str(self.small.text_bank), "device": "cpu"}
        workflow = ConfigWorkflow(
            config_file=[str(CONFIGS / f"{name}.json") for name in names],
            workflow_type="inference" if names == ("inference",) else "train",
            logging_file=False,
            **files | {key: str(value) if isinstance(value, Path) else value for key, value in overrides.items()},
        )
        workflow.initialize()
        workflow.run()

    def infer(self, image: object, output_dir: Path, prompt: object = "liver", **overrides: Any) -> None:
        self.run("inference", image=image, output_dir=output_dir, prompt=prompt, **overrides)

    def refusal(self, *names: str, **overrides: Any) -> str:
        """The message that the run ends with."""
        with pytest.raises(Exception) as caught:
            self.run(*names, **overrides)
        return str(root_cause(caught.value))
