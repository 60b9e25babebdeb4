"""Disk space and loading time of a prepared case, compared with the references' 32-channel target."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from timeit import repeat
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from rich.console import Console
from rich.table import Table

from custom.datasets.cache import PreparedDataset
from custom.datasets.dataset_json import read_data_list
from custom.tools.benchmarks.running import read_config
from custom.tools.phantoms.dataset import write_phantoms
from custom.transforms.labels import LabelsToTargetd


def benchmark_cache(*, spacing: float = 1.5, original: float = 2.0, seed: int = 0, repeats: int = 5) -> None:
    """Compare the cache with other ways to store the same case; prints a table.

    A phantom, written as NIfTI, is prepared by the preprocessing of train.json and stored by the cache, and as the
    references do: image and target (32, H, W, D) uint8, 255 for unknown, compressed by deflate (there in HDF5, here in
    npz, which needs no further package). Files are in the page cache of the system when they are loaded.

    Args:
        spacing: Voxel size of the prepared case, mm.
        original: Voxel size of the phantom, mm; another one, so that the image is interpolated as a CT's would be.
        repeats: Loads of each, of which the median is reported.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_phantoms(folder, splits={"training": 1}, seed=seed, spacing=(original,) * 3)
        parser = read_config("train", {"spacing": [spacing] * 3})
        class_set, preparation = (parser.get_parsed_content(key) for key in ("class_set", "preprocessing"))
        [item] = read_data_list(folder, "training", class_set)
        dataset = PreparedDataset([item], Compose([]), preparation=preparation, cache_dir=folder / "cache")
        prepared = dataset.prepared(0)["image"].as_tensor().numpy()
        plain: Any = preparation(item)
        target = LabelsToTargetd("label")(plain)["label"].as_tensor().numpy()
        image, target = plain["image"].as_tensor().numpy(), np.where(target < 0, 255, target).astype(np.uint8)
        np.savez_compressed(folder / "target.npz", image=image, target=target)

        def reference() -> list[Any]:
            with np.load(folder / "target.npz") as archive:
                return [torch.from_numpy(archive[key]) for key in ("image", "target")]

        # name, how it is loaded, its files, and its size in memory as a multiple of the float32 image
        rows: list[tuple[str, Callable[[], Any], list[Path], float]] = [
            ("from NIfTI, every time", lambda: preparation(item), list(folder.rglob("*.nii.gz")), 2),
            ("32-channel target, deflate", reference, [folder / "target.npz"], 9),
            ("prepared case", lambda: dataset.prepared(0), [dataset.entry(item)], 1.25),
        ]
        table = Table("kept as", "MB on disk", "MB in memory", "seconds to load", title=f"{image.shape[1:]} voxels")
        for kind, load, files, factor in rows:
            size = sum(file.stat().st_size for file in files) / 1e6
            seconds = median(repeat(load, number=1, repeat=repeats))
            table.add_row(kind, f"{size:.1f}", f"{image.nbytes * factor / 1e6:.0f}", f"{seconds:.3f}")
        Console().print(table)
        off = np.abs(prepared - image).max() * np.ptp(class_set.intensity_window)
        print(f"The kept image is at most {off:.3f} HU off.")
