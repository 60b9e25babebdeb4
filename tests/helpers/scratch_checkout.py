"""A copy of the repository with the data and weights that its pages speak of, all of them small."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser

from custom.anatomy.loading import load_class_set
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.networks.swin_unetr import SwinUNETR
from custom.networks.universal_swin_unetr import UniversalSwinUNETR
from custom.tools.export.archive import zip_bundle
from custom.tools.export.bundle_folder import export_bundle
from custom.tools.export.statements import Statements
from custom.tools.phantoms.dataset import write_phantoms
from custom.weights.io import save_weights
from tests.helpers import ROOT
from tests.helpers.dicom_series import write_series
from tests.helpers.fake_datasets import write_fakes, write_lists
from tests.helpers.public_checkpoints import authors, universal

SPACING = (12.0, 12.0, 12.0)
SIZES = {"spacing": list(SPACING), "roi_size": [64, 32, 32]}
#: What the data set labels, and what the weights know.
LABELLED = ("liver", "spleen")
KNOWN = (*LABELLED, "right kidney", "left kidney", "pancreas", "liver tumor", "pancreas tumor")

#: Settings of a small network for phantoms of 12 mm, by bundle.
SWIN: dict[str, Any] = {"feature_size": 12, "window_size": 4}
SMALL: dict[str, Any] = {"feature_size": 12, "network_def::window_size": 4}
NETWORKS: dict[str, dict[str, Any]] = {
    "film_swinunetr": SMALL | {"text_encoder": "minilm"},
    "film2_swinunetr": SMALL | {"text_encoder": "minilm"},
    "swinunetr": SMALL,
    "unetr": {"feature_size": 4, "network_def::hidden_size": 48},
    "universal_swinunetr": SMALL | {"text_encoder": "minilm"},
}

#: Version of the bundle that the pages fetch from an address of theirs.
PUBLISHED = "0.3.0"

COPIED = ("Makefile", "README.md", "LICENSE", "pyproject.toml", "constraints.txt", ".pre-commit-config.yaml")


def build_checkout(root: Path) -> None:
    """Write ``root/checkout``, the repository, beside ``root/data`` and ``root/shared`` for /data and /shared."""
    checkout, data = root / "checkout", root / "data"
    _write_data(data)
    shared = root / "shared" / "data" / "ct"
    shared.mkdir(parents=True)
    shutil.copy(data / "ct.nii.gz", shared / "ct_abdomen_3mm.nii.gz")
    label = nib.nifti1.load(data / "my_ct" / "labels" / "phantom_0000.nii.gz")
    classes = np.asarray(label.dataobj)
    classes = np.where(classes <= len(load_class_set()), classes, 0)  # others are phantoms' own
    nib.save(nib.Nifti1Image(classes.astype(np.uint8), label.affine), shared / "ct_abdomen_3mm_classes.nii.gz")
    ignore = shutil.ignore_patterns("model", "logs", "bin", "eval", "models", "__pycache__")
    for name in ("bundles", "scripts", "monailabel_app"):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignore)
    for name in COPIED:
        shutil.copy(ROOT / name, checkout)
    (checkout / "custom").symlink_to(ROOT / "custom")
    (checkout / ".venv").symlink_to(sys.prefix)
    subprocess.run(["git", "init", "--quiet", str(checkout)], check=True)
    for folder in (checkout, *(checkout / "bundles").iterdir()):
        shutil.copy(data / "ct.nii.gz", folder)
    for name in ("all", "ours", "ct_demo", "ct_overfit"):
        _link(checkout / "data" / name, data / "my_ct")
    _write_hippocampus(checkout / "data" / "Task04_Hippocampus")
    (checkout / "dataset").mkdir()
    write_lists(checkout / "dataset" / "dataset_list", name="PAOT", splits={"train": [0], "val": [1], "test": [2]})
    write_lists(checkout / "lists", name="ours", splits={"train": [0], "val": [1], "test": [2]})
    _write_weights(root)
    for name in ("swinunetr", "film", *(f"hippocampus/{name}" for name in NETWORKS)):
        _write_cases(checkout / "runs" / name / "eval")


def copy_checkout(source: Path, root: Path) -> Path:
    """A copy for one test; the weights, which no command changes in place, are links."""

    def link_large(file: str, target: str) -> None:
        (os.link if Path(file).stat().st_size > 1e6 else shutil.copy2)(file, target)

    shutil.copytree(source, root, symlinks=True, copy_function=link_large)
    return root / "checkout"


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def _write_data(data: Path) -> None:
    splits = {"training": 5, "validation": 1, "test": 1}  # as many as folds
    path = write_phantoms(data / "my_ct", splits=splits, spacing=SPACING, classes=LABELLED)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"unlabelled": [{"image": content["test"][0]["image"]}]}))
    for image in (data / "ct.nii.gz", data / "my_ct" / "ct.nii.gz"):  # the one in the folder is an image of a study
        shutil.copy(data / "my_ct" / "images" / "phantom_0000.nii.gz", image)
    shutil.copytree(data / "my_ct", data / "abdomen_ct")
    write_series(data / "ct.nii.gz", data / "patient" / "ct_series")
    write_fakes(data, seeds=(0, 1, 2), spacing=SPACING)
    _link(data / "01_BTCV", data / "01_Multi-Atlas_Labeling")
    _link(data / "10_Decathlon" / "Task07_Pancreas", data / "10_Decathlon" / "Task03_Liver")


def _write_hippocampus(folder: Path) -> None:
    """Boxes of noise of 1 mm, with a brighter part before and behind."""
    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for case in range(6):
        label = np.zeros((32, 40, 32), np.uint8)
        label[12:20, 22:30, 12:20], label[12:20, 10:22, 12:20] = 1, 2
        image = random.normal(200, 50, label.shape) + 100.0 * label
        for kind, voxels in (("images", image), ("labels", label)):
            nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.eye(4)), folder / kind / f"hippocampus_{case}.nii.gz")
    cases = [{kind: f"{kind}s/hippocampus_{case}.nii.gz" for kind in ("image", "label")} for case in range(6)]
    labels = {"1": "anterior hippocampus", "2": "posterior hippocampus"}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": cases}))  # as the Decathlon's own


def _write_weights(root: Path) -> None:
    """Weights of all bundles, kept beside the checkout, and checkpoints of other codes in it."""
    checkout = root / "checkout"
    for name, settings in NETWORKS.items():
        config = ConfigParser()
        config.read_config(checkout / "bundles" / name / "configs" / "train.json")
        config.update(pairs=settings | SIZES | {"trained_classes": list(KNOWN)})
        network = config.get_parsed_content("network")
        if name.startswith("film"):
            network.out.conv.conv.bias.data += 5  # finds every class everywhere
        file = root.parent / f"{name}.safetensors"
        save_weights(network, file, header=config.get_parsed_content("header"), provenance={"untrained": True})
        places = [checkout / "bundles" / name / "models" / "model.safetensors"]
        if name == "film_swinunetr":
            shutil.copy(ROOT / "bundles" / name / "models" / "demo.safetensors", root.parent)
            (places[0].parent).mkdir()
            (places[0].parent / "demo.safetensors").symlink_to(root.parent / "demo.safetensors")
            places += [checkout / "runs" / run / "model.safetensors" for run in ("ours", "full", "ct_overfit/models")]
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    others = {"text_dim": 512, **SWIN}
    torch.save(authors(FiLMSwinUNETR(1, 32, **others).state_dict(), "film"), checkout / "epoch.pth")
    torch.save(universal(UniversalSwinUNETR(1, 32, **others).state_dict(), "universal"), checkout / "unet.pth")
    torch.save(SwinUNETR(1, 32, **SWIN).state_dict(), checkout / "model.pt")
    torch.save(torch.randn(32, 512), checkout / "txt_encoding.pth")
    film = checkout / "bundles" / "film_swinunetr"
    exported = export_bundle(film, checkout, statements=Statements.unstated("film_swinunetr"))
    zip_bundle(exported).rename(root / "data" / f"film_swinunetr_v{PUBLISHED}.zip")
    shutil.copy(checkout / "ct.nii.gz", exported)


def _write_cases(folder: Path) -> None:
    """What an evaluation leaves for comparisons."""
    folder.mkdir(parents=True)
    lines = [f"/data/{case}/ct.nii.gz,01,liver,0.{case}" for case in range(5, 9)]
    (folder / "cases.csv").write_text("\n".join(["case,dataset,class,dice", *lines]) + "\n")
