"""Disk space and loading time of a prepared case, compared with the references' 32-channel target."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from timeit import repeat
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from rich.console import Console
from rich.table import Table

from custom.datasets.cache import PreparedDataset
from custom.datasets.labels import value_table
from custom.tools.benchmarks.running import ROOT
from custom.tools.phantoms.scene import LABELS, make_phantom
from custom.transforms.labels import LabelsToTargetd

CONFIG = ROOT / "bundles" / "film_swinunetr" / "configs" / "train.json"


def bench_cache(*, spacing: float = 1.5, original: float = 2.0, seed: int = 0, repeats: int = 5) -> None:
    """Compare the cache with other ways to store the same case; prints a table.

    A phantom, written as NIfTI, is prepared by the preprocessing of train.json and stored by the cache, and as the
    references do: image and target (32, H, W, D) uint8, 255 for unknown, compressed by deflate (there in HDF5, here in
    npz, which needs no further package). Files are in the page cache of the system when they are loaded.

    Args:
        spacing: Voxel size of the prepared case, mm.
        original: Voxel size of the phantom, mm; another one, so that the image is interpolated as a CT's would be.
        seed: Seed of the phantom.
        repeats: Loads of each, of which the median is reported.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        phantom = make_phantom(seed, spacing=(original,) * 3)
        for kind, array in (("image", phantom.image), ("label", phantom.label)):
            nib.save(nib.Nifti1Image(array, phantom.affine), folder / f"{kind}.nii.gz")
        parser = ConfigParser()
        parser.read_config(CONFIG)
        parser.update(pairs={"spacing": [spacing] * 3})
        class_set, preparation = (parser.get_parsed_content(key) for key in ("class_set", "preprocessing"))
        labels = {str(value): list(names) for value, names in LABELS.items()}
        item = {
            **{kind: str(folder / f"{kind}.nii.gz") for kind in ("image", "label")},
            "value_table": value_table(labels, class_set, source="the phantom"),
        }
        dataset = PreparedDataset([item], Compose([]), preparation=preparation, cache_dir=folder / "cache")
        dataset.prepared(0)
        plain: Any = preparation(item)
        target = LabelsToTargetd("label")(plain)["label"].as_tensor().numpy()
        image, target = plain["image"].as_tensor().numpy(), np.where(target < 0, 255, target).astype(np.uint8)
        np.savez_compressed(folder / "target.npz", image=image, target=target)
        off = np.abs(dataset.prepared(0)["image"].as_tensor().numpy() - image).max() * np.ptp(
            class_set.intensity_window
        )

        def reference() -> list[Any]:
            with np.load(folder / "target.npz") as archive:
                return [torch.from_numpy(archive[key]) for key in ("image", "target")]

        rows: list[tuple[str, Callable[[], Any], int]] = [
            (
                "from NIfTI, every time",
                lambda: preparation(item),
                sum(f.stat().st_size for f in folder.glob("*.nii.gz")),
            ),
            ("32-channel target, deflate", reference, (folder / "target.npz").stat().st_size),
            ("prepared case", lambda: dataset.prepared(0), dataset.entry(item).stat().st_size),
        ]
        table = Table("kept as", "MB on disk", "MB in memory", "seconds to load", title=f"{image.shape[1:]} voxels")
        memory = [image.nbytes * factor / 1e6 for factor in (2, 9, 1.25)]
        for (kind, load, size), held in zip(rows, memory, strict=True):
            seconds = median(repeat(load, number=1, repeat=repeats))
            table.add_row(kind, f"{size / 1e6:.1f}", f"{held:.0f}", f"{seconds:.3f}")
        Console().print(table)
        print(f"The kept image is at most {off:.3f} HU off.")
