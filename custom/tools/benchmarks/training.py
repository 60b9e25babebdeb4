"""Samples a second in training: the references' pipeline in stock MONAI, and ours, one change after the other."""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from monai.data import DataLoader, Dataset, MetaTensor
from monai.losses import DiceLoss
from monai.transforms import (
    Compose,
    Lambdad,
    LoadImage,
    RandCropByPosNegLabeld,
    RandRotate90d,
    RandShiftIntensityd,
    SpatialPadd,
)

from custom.datasets.dataset_json import read_data_list
from custom.tools.benchmarks.reference_pipeline import preparation
from custom.tools.benchmarks.running import describe_machine, markdown_table, read_config
from custom.tools.phantoms.dataset import write_phantoms
from custom.utils.files import atomic_write
from custom.utils.precision import computes_bfloat16

KEYS = ("image", "label")

#: Network sizes: one that two cores train in an hour, and the published one.
SIZES: dict[str, dict[str, Any]] = {
    "small": {"feature_size": 12, "network_def::window_size": 4, "roi_size": [64, 64, 64]},
    "published": {"feature_size": 48, "network_def::window_size": 7, "roi_size": [96, 96, 96]},
}

#: Settings of every pipeline, unless it changes them.
SETTINGS = {
    **{"text_encoder": "minilm", "amp": False, "network_def::use_flash_attention": False},
    **{"train::dataset::cache_rate": 0.0, "train::dataset::progress": False},
}

Batch = Mapping[str, Any]


class Pipeline(NamedTuple):
    """A way to train: its batches of two crops, its optimizer, and the loss of a batch."""

    batches: Iterator[Batch]
    optimizer: torch.optim.Optimizer
    loss: Callable[[Batch], Any]


def benchmark_training(
    *,
    size: str = "small",
    steps: int = 4,
    rounds: int = 3,
    spacing: float = 1.5,
    cases: int = 2,
    output_dir: str = "runs/bench_training",
) -> None:
    """Time the pipelines in turn, round by round, and print a table of medians.

    Args:
        size: "small" (F=12, windows of 64) or "published" (F=48, windows of 96).
        steps: steps timed in each round; a step takes two crops of one volume.
        rounds: how often each pipeline is timed, after one round that is not counted and fills the cache.
        spacing: voxel size of the phantoms and of the training, mm.
        output_dir: receives phantoms, 32-channel labels and the cache.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, not {size!r}.")
    folder = Path(output_dir) / f"{spacing:g}mm"
    data = write_phantoms(folder / "data", splits={"training": cases}, seed=700, spacing=(spacing,) * 3).parent
    settings = SETTINGS | SIZES[size] | {"spacing": [spacing] * 3, "dataset_dir": str(data), "ckpt_dir": str(folder)}
    prepared = settings | {"cache_dir": str(folder / "cache")}
    fused = prepared | {"network_def::use_flash_attention": True}
    pipelines = {
        "references, stock MONAI": references(settings, folder),
        "+ compact labels": ours(settings),
        "+ prepared cases on disk": ours(prepared),
        "+ fused attention": ours(fused),
    }
    if computes_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        pipelines["+ bfloat16"] = ours(fused | {"amp": True})
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pipelines}
    for _ in range(1 + rounds):
        for name, pipeline in pipelines.items():
            times[name].append(_time(pipeline, steps))
            print(f"{name}: {times[name][-1][0] / steps:.2f} s a step", flush=True)
    first = median(total for total, _ in times["references, stock MONAI"][1:])
    rows = []
    for name, (_, *found) in times.items():
        total, waiting = median(total for total, _ in found), median(waited / total for total, waited in found)
        rows.append((name, f"{2 * steps / total:.3f}", f"{first / total:.2f}", f"{waiting:.0%}"))
    command = f"python scripts/benchmark.py training --size {size} --steps {steps} --rounds {rounds}"
    print(
        f"`{command} --spacing {spacing:g}`, {date.today().isoformat()}, {describe_machine()}. "
        f"Medians of {rounds} rounds, all pipelines in turn.\n"
    )
    print(markdown_table(("pipeline", "samples a second", "against the references", "waiting for data"), rows))


def references(settings: Mapping[str, Any], folder: Path) -> Pipeline:
    """The references' pipeline: image and 32 channels are read, resampled and cropped at each step; float32."""
    keys = ("class_set", "device", "network", "optimizer", "bank")
    class_set, device, network, optimizer, bank = map(read_config("train", settings).get_parsed_content, keys)
    transform = Compose(
        [
            Lambdad("label", _read_stack),
            preparation("label", spacing=settings["spacing"], window=class_set.intensity_window),
            SpatialPadd(KEYS, spatial_size=settings["roi_size"]),
            RandCropByPosNegLabeld(KEYS, "label", settings["roi_size"], pos=2, neg=1, num_samples=2, image_key="image"),
            RandRotate90d(KEYS, prob=0.1, max_k=3, spatial_axes=(1, 2)),
            RandShiftIntensityd("image", offsets=0.1, prob=0.2),
        ]
    )
    items = read_data_list(settings["dataset_dir"], "training", class_set)
    stacks = [{"image": item["image"], "label": _write_stack(item, folder)} for item in items]
    text = bank(class_set.default_prompt).to(device)
    dice = DiceLoss(sigmoid=True)

    def loss(batch: Batch) -> Any:
        target = batch["label"].to(device).float()
        logits = network(batch["image"].to(device), text)
        known = target[0, :, 0, 0, 0] != 255
        logits, target = logits[:, known], target[:, known]
        return dice(logits, target) + F.binary_cross_entropy_with_logits(logits, target)

    loader = DataLoader(Dataset(stacks, transform), batch_size=1, shuffle=True)
    return Pipeline(chain.from_iterable(repeat(loader)), optimizer, loss)


def ours(settings: Mapping[str, Any]) -> Pipeline:
    """The bundle's own training, without its handlers."""
    keys = ("device", "network", "optimizer", "loss", "train::inferer", "train::dataloader")
    parts = map(read_config("train", settings).get_parsed_content, keys)
    device, network, optimizer, criterion, inferer, loader = parts

    def loss(batch: Batch) -> Any:
        logits = inferer(batch["image"].to(device), network, text=batch["text"].to(device))
        return criterion(logits, batch["label"].to(device))

    return Pipeline(chain.from_iterable(repeat(loader)), optimizer, loss)


def _write_stack(item: Mapping[str, Any], folder: Path) -> str:
    """The file of the 32 channels of a case's label, which the first call writes."""
    file = folder / "stacks" / f"{Path(item['label']).name}.npz"
    if not file.is_file():
        label = LoadImage()(item["label"])
        channels = item["value_table"][label.long()].movedim(-1, 0)
        with atomic_write(file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, label=channels.numpy().astype(np.uint8), affine=label.affine.numpy())
    return str(file)


def _read_stack(file: str) -> MetaTensor:
    """A label of 32 channels, 0, 1 or 255 (unknown), as the references store it (they use HDF5)."""
    with np.load(file) as stored:
        return MetaTensor(torch.from_numpy(stored["label"]), affine=torch.from_numpy(stored["affine"]))


def _time(pipeline: Pipeline, steps: int) -> tuple[float, float]:
    """Seconds that the steps take, and seconds of these spent waiting for data."""
    waited = 0.0
    begin = time.perf_counter()
    for _ in range(steps):
        start = time.perf_counter()
        batch = next(pipeline.batches)
        waited += time.perf_counter() - start
        pipeline.optimizer.zero_grad()
        pipeline.loss(batch).backward()
        pipeline.optimizer.step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, waited
