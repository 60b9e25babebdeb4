"""A small network's files and data, and the bundle's configs run with them in the test's own process."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from custom.anatomy.loading import load_class_set
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.text.bank import PromptBank
from custom.text.encoders import create_text_encoder
from custom.tools.phantoms.scene import make_phantom
from custom.utils.errors import root_cause
from custom.weights.io import save_weights
from custom.weights.volume import describe_volume_weights
from tests.helpers import CONFIGS

#: Raw values kept in the small data set; value 27 is tumour and liver.
SMALL_LABELS = {"1": "spleen", "2": "right kidney", "3": "left kidney", "6": "liver", "27": ["liver tumor", "liver"]}


class Small(NamedTuple):
    """Files of a small network with random weights, for a working resolution of 12 mm, and of its prompts' vectors."""

    weights: Path
    local_weights: Path  # of a network that segments voxel by voxel, by intensity alone
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


def write_small_dataset(folder: Path) -> None:
    """Write ``dataset.json`` and two phantoms of 7 mm: one for training, one for validation and test."""
    cases = []
    for seed in (0, 1):
        phantom = make_phantom(seed, spacing=(7.0, 7.0, 7.0))
        label = np.where(np.isin(phantom.label, [int(value) for value in SMALL_LABELS]), phantom.label, 0)
        for kind, array in (("image", phantom.image.astype(np.int16)), ("label", label.astype(np.uint8))):
            nib.save(nib.Nifti1Image(array, phantom.affine), folder / f"{kind}_{seed}.nii.gz")
        cases.append({"image": f"image_{seed}.nii.gz", "label": f"label_{seed}.nii.gz"})
    content = {"labels": SMALL_LABELS, "training": cases[:1], "validation": cases[1:], "test": cases[1:]}
    (folder / "dataset.json").write_text(json.dumps(content))


def write_coarse_ct(folder: Path) -> Path:
    """Write a phantom of 12 mm."""
    phantom = make_phantom(0, spacing=(12.0, 12.0, 12.0))
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), folder / "ct.nii.gz")
    return folder / "ct.nii.gz"


def write_small_network(folder: Path) -> Small:
    """Write the files of a small network."""
    class_set = load_class_set()
    bank = PromptBank(folder / "bank.safetensors", create_text_encoder("minilm"))
    vectors = bank(
        [class_set.default_prompt, *(f"a computerized tomography of {n}" for n in ("liver", "liver, spleen"))]
    )
    bank.save()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FiLMSwinUNETR(1, len(class_set), 12, 384, "film", default_text=vectors[0], window_size=4)
    _find_a_fifth(network, vectors[1])
    header = describe_volume_weights(
        network,
        class_set=class_set,
        bank=bank,
        spacing=[12, 12, 12],
        roi_size=[64, 32, 32],
        max_classes_per_prompt=15,
        trained_classes=["spleen", "right kidney", "left kidney", "liver"],
    )
    files = Small(*(folder / f"{name}.safetensors" for name in ("model", "local", "bank")))
    save_weights(network, files.weights, header=header, provenance={"random": True})
    torch.nn.init.zeros_(network.decoder1.transp_conv.conv.weight)
    for weight in network.parameters():
        if weight.shape[2:] == (3, 3, 3):
            weight.data *= torch.nn.functional.pad(torch.ones(1, 1, 1), [1] * 6)
    _find_a_fifth(network, vectors[1])
    save_weights(network, files.local_weights, header=header, provenance={"random": True})
    return files


def _find_a_fifth(network: FiLMSwinUNETR, text: torch.Tensor) -> None:
    """Shift the head so that every class takes a fifth of a phantom's window."""
    image = torch.zeros(1, 1, 64, 32, 32)
    phantom = make_phantom(2, spacing=(12.0, 12.0, 12.0)).image
    image[0, 0, : phantom.shape[0], : phantom.shape[1], : phantom.shape[2]] = torch.tensor(phantom)
    with torch.no_grad():
        logits = network.eval()(((image + 175) / 425).clamp(0, 1), text[None])[0].flatten(1)
        network.out.conv.conv.bias -= logits.quantile(0.8, dim=1)
