"""Samples a second in training: the references' pipeline in stock MONAI, and ours, one change after the other."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor
from monai.losses import DiceLoss
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    MapTransform,
    Orientationd,
    RandCropByPosNegLabeld,
    RandRotate90d,
    RandShiftIntensityd,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)
from rich.console import Console

from custom.anatomy.loading import load_class_set
from custom.datasets.dataset_json import read_data_list
from custom.tools.benchmarks.running import ROOT, describe_machine
from custom.tools.phantoms.dataset import write_phantoms
from custom.utils.compat import without_nvimgcodec_warning
from custom.utils.files import atomic_write
from custom.utils.precision import computes_bfloat16

KEYS = ("image", "label")

#: Network sizes: one that two cores train in an hour, and the published one.
SIZES: dict[str, dict[str, Any]] = {
    "small": {"feature_size": 12, "network_def::window_size": 4, "roi_size": [64, 64, 64]},
    "published": {"feature_size": 48, "network_def::window_size": 7, "roi_size": [96, 96, 96]},
}

Batch = Mapping[str, Any]


class Pipeline(NamedTuple):
    """A way to train: its batches of two crops, and one optimizer step on a batch."""

    batches: Iterator[Batch]
    update: Callable[[Batch], None]


class LoadStackd(MapTransform):
    """Read a label of 32 channels, 0, 1 or 255 (unknown), as the references store it (they use HDF5)."""

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            with np.load(result[key]) as stored:
                result[key] = MetaTensor(torch.from_numpy(stored["label"]), affine=torch.from_numpy(stored["affine"]))
        return result


def bench_training(
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
        cases: phantoms to train on.
        output_dir: receives phantoms, 32-channel labels and the cache.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, not {size!r}.")
    folder = Path(output_dir) / f"{spacing:g}mm"
    data = write_phantoms(folder / "data", splits={"training": cases}, seed=700, spacing=(spacing,) * 3).parent
    settings = {**SIZES[size], "spacing": [spacing] * 3, "dataset_dir": str(data), "ckpt_dir": str(folder)}
    pipelines = {
        "references, stock MONAI": references(settings, folder),
        "+ compact labels": ours(settings),
        "+ prepared cases on disk": ours(settings, cache_dir=folder / "cache"),
        "+ fused attention": ours(settings, cache_dir=folder / "cache", use_flash_attention=True),
        "+ bfloat16": ours(settings, cache_dir=folder / "cache", use_flash_attention=True, amp=True),
    }
    if not computes_bfloat16(_device()):
        del pipelines["+ bfloat16"]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pipelines}
    for _ in range(1 + rounds):
        for name, pipeline in pipelines.items():
            times[name].append(_time(pipeline, steps))
            print(f"{name}: {times[name][-1][0] / steps:.2f} s a step", flush=True)
    table = _table({name: found[1:] for name, found in times.items()}, size, steps=steps, spacing=spacing)
    Console().print(table, markup=False, soft_wrap=True)


def references(settings: Mapping[str, Any], folder: Path) -> Pipeline:
    """The references' pipeline: image and 32 channels are read, resampled and cropped at each step; float32."""
    class_set = load_class_set()
    low, high = class_set.intensity_window
    items = read_data_list(settings["dataset_dir"], "training", class_set)
    stacks = [{"image": item["image"], "label": _write_stack(item, folder)} for item in items]
    with without_nvimgcodec_warning():
        load = LoadImaged("image")
    transform = Compose(
        [
            load,
            EnsureChannelFirstd("image"),
            LoadStackd("label"),
            Orientationd(KEYS, axcodes="RAS", labels=None),
            Spacingd(KEYS, pixdim=settings["spacing"], mode=("bilinear", "nearest")),
            ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=0, b_max=1, clip=True),
            CropForegroundd(KEYS, source_key="image"),
            SpatialPadd(KEYS, spatial_size=settings["roi_size"]),
            RandCropByPosNegLabeld(KEYS, "label", settings["roi_size"], pos=2, neg=1, num_samples=2, image_key="image"),
            RandRotate90d(KEYS, prob=0.1, max_k=3, spatial_axes=(1, 2)),
            RandShiftIntensityd("image", offsets=0.1, prob=0.2),
        ]
    )
    parser = _parser(settings)
    network, optimizer = parser.get_parsed_content("network"), parser.get_parsed_content("optimizer")
    text = parser.get_parsed_content("bank")(class_set.default_prompt)
    dice = DiceLoss(sigmoid=True)
    loader = DataLoader(Dataset(stacks, transform), batch_size=1, shuffle=True)

    def update(batch: Batch) -> None:
        optimizer.zero_grad()
        target = batch["label"].to(_device()).float()
        logits = network(batch["image"].to(_device()), text.to(_device()))
        known = target[0, :, 0, 0, 0] != 255
        logits, target = logits[:, known], target[:, known]
        (dice(logits, target) + F.binary_cross_entropy_with_logits(logits, target)).backward()
        optimizer.step()

    return Pipeline(_endless(loader), update)


def ours(settings: Mapping[str, Any], *, cache_dir: Path | None = None, **others: Any) -> Pipeline:
    """The bundle's own training, without its handlers."""
    parser = _parser({**settings, "cache_dir": cache_dir and str(cache_dir)}, **others)
    loader = parser.get_parsed_content("train::dataloader")
    network, optimizer = parser.get_parsed_content("network"), parser.get_parsed_content("optimizer")
    inferer, loss = parser.get_parsed_content("train::inferer"), parser.get_parsed_content("loss")

    def update(batch: Batch) -> None:
        optimizer.zero_grad()
        logits = inferer(batch["image"].to(_device()), network, text=batch["text"].to(_device()))
        loss(logits, batch["label"].to(_device())).backward()
        optimizer.step()

    return Pipeline(_endless(loader), update)


def _parser(settings: Mapping[str, Any], **others: Any) -> ConfigParser:
    config = ROOT / "bundles" / "film_swinunetr" / "configs" / "train.json"
    parser = ConfigParser(ConfigParser.load_config_file(config))
    fixed = {
        "text_encoder": "minilm",
        "train::dataset::cache_rate": 0.0,
        "amp": False,
        "train::dataset::progress": False,
    }
    flash = others.pop("use_flash_attention", False)
    parser.update(pairs={**settings, **fixed, **others, "network_def::use_flash_attention": flash})
    return parser


def _device() -> torch.device:
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def _write_stack(item: Mapping[str, Any], folder: Path) -> str:
    """The file of the 32 channels of a case's label, which the first call writes."""
    file = folder / "stacks" / f"{Path(item['label']).name}.npz"
    if not file.is_file():
        label = LoadImaged("label")({"label": item["label"]})["label"]
        channels = item["value_table"][label.long()].movedim(-1, 0)
        with atomic_write(file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, label=channels.numpy().astype(np.uint8), affine=label.affine.numpy())
    return str(file)


def _endless(loader: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        yield from loader


def _time(pipeline: Pipeline, steps: int) -> tuple[float, float]:
    """Seconds that the steps take, and seconds of these spent waiting for data."""
    waited = 0.0
    begin = time.perf_counter()
    for _ in range(steps):
        start = time.perf_counter()
        batch = next(pipeline.batches)
        waited += time.perf_counter() - start
        pipeline.update(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, waited


def _table(times: Mapping[str, list[tuple[float, float]]], size: str, *, steps: int, spacing: float) -> str:
    totals = {name: statistics.median(total for total, _ in found) for name, found in times.items()}
    first = next(iter(totals.values()))
    rounds = len(next(iter(times.values())))
    lines = [
        f"`python scripts/bench_training.py --size {size} --steps {steps} --rounds {rounds} --spacing {spacing:g}`, "
        f"{date.today().isoformat()}, {describe_machine()}. Medians of {rounds} rounds, all pipelines in turn.",
        "",
        "| pipeline | samples a second | against the references | waiting for data |",
        "|---" * 4 + "|",
    ]
    for name, total in totals.items():
        waiting = statistics.median(waited / whole for whole, waited in times[name])
        lines.append(f"| {name} | {2 * steps / total:.3f} | {first / total:.2f} | {waiting:.0%} |")
    return "\n".join(lines) + "\n"
