"""How the references segment a CT, in stock MONAI: the pipeline that our inference is measured against.

Full precision, one window at a time with constant blending, all channels over the whole volume, each of them inverted
to the image's grid by nearest neighbour, as in the references' public code.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, decollate_batch, list_data_collate
from monai.inferers import sliding_window_inference
from monai.networks.nets.swin_unetr import BasicLayer as StockSwinStage
from monai.networks.nets.swin_unetr import WindowAttention as StockWindowAttention
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImage,
    ScaleIntensityRanged,
    Spacingd,
)

from custom.inferers.windows import slab_axis
from custom.networks.blocks.memory_efficient import SwinStage, WindowAttention
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.tools.benchmarks.position_baseline import dice
from custom.utils.precision import computes_bfloat16


class StockFiLMSwinUNETR(FiLMSwinUNETR):
    """The same network with MONAI's own blocks, in one pass."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        theirs = {WindowAttention: StockWindowAttention, SwinStage: StockSwinStage}
        for module in self.modules():
            module.__class__ = theirs.get(type(module), type(module))

    def forward(self, image: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        vector = self.default_text if text is None else text
        h0, h1, h2, h3, h4 = self.swinViT(image, self.normalize)
        enc0, enc1, enc2, enc3 = self.encoder1(image), self.encoder2(h0), self.encoder3(h1), self.encoder4(h2)

        def film(site: str, x: torch.Tensor) -> torch.Tensor:
            modulated: torch.Tensor = self.film[site](x, vector)
            return modulated

        dec3 = self.decoder5(film("dec4", self.encoder10(h4)), h3)
        dec2 = self.decoder4(film("dec3", dec3), enc3)
        dec1 = self.decoder3(film("dec2", dec2), enc2)
        dec0 = self.decoder2(film("dec1", dec1), enc1)
        logits: torch.Tensor = self.out(self.decoder1(dec0, enc0))
        return logits


def preparation(*, spacing: Sequence[float], window: Sequence[float]) -> Compose:
    """Read a CT and bring it to the working grid."""
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=spacing, mode="bilinear"),
            ScaleIntensityRanged("image", window[0], window[1], 0.0, 1.0, clip=True),
            CropForegroundd("image", source_key="image"),
        ]
    )


def restoration(prepare: Compose, *, nearest: bool = True) -> Compose:
    """Bring logits on the working grid to masks on the image's, by nearest neighbour or interpolated probabilities."""
    return Compose(
        [
            Activationsd("pred", sigmoid=True),
            Invertd("pred", transform=prepare, orig_keys="image", nearest_interp=nearest, to_tensor=True),
            AsDiscreted("pred", threshold=0.5),
        ]
    )


def segment(
    image: str | Path,
    network: StockFiLMSwinUNETR,
    text: torch.Tensor,
    *,
    spacing: Sequence[float],
    window: Sequence[float],
    roi_size: Sequence[int],
    output_dir: str | Path,
    device: torch.device,
) -> float:
    """Segment one CT, write all masks and the merged map, and return the seconds that the network took."""
    prepare = preparation(spacing=spacing, window=window)
    loader = DataLoader(Dataset([{"image": str(image)}], prepare), batch_size=1)
    [batch] = list(loader)
    start = time.perf_counter()
    with torch.no_grad():
        logits = sliding_window_inference(
            batch["image"].to(device),
            roi_size,
            1,
            lambda windows: network(windows, text),
            overlap=0.25,
            mode="constant",
        )
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    [item] = decollate_batch({"image": batch["image"], "pred": logits})
    del logits, batch
    masks = restoration(prepare)(item)["pred"]
    save = SaveImage(output_dir, output_postfix="masks", output_dtype=np.uint8, separate_folder=False, print_log=False)
    save(masks)
    values = torch.arange(1, masks.shape[0] + 1)[:, None, None, None]
    save.folder_layout.postfix = "merged"
    save((masks * values).amax(0, keepdim=True))
    return seconds


class Agreement(NamedTuple):
    """Agreement of our masks of one class with the reference pipeline's.

    Args:
        name: of the class.
        precision: of ours; "float32" or "bfloat16".
        voxels: of the reference mask, at working resolution.
        working: Dice at working resolution.
        grid: Dice on the image's grid, against interpolated probabilities of the reference.
    """

    name: str
    precision: str
    voxels: int
    working: float
    grid: float


def stock_bundle(config: str | Path, **settings: Any) -> ConfigParser:
    """A bundle's ``inference.json`` with the stock network instead of ours; ``settings`` override its config."""
    parser = ConfigParser()
    parser.read_config(config)
    stock = {"_target_": f"{__name__}.{StockFiLMSwinUNETR.__name__}", "use_flash_attention": False}
    parser.update(pairs=settings | {f"network_def::{key}": value for key, value in stock.items()})
    return parser


def agreement(image: str | Path, prompt: str, *, config: str | Path, weights: str | Path) -> list[Agreement]:
    """Segment an image with both pipelines and compare the masks of the classes that the reference finds.

    Both compute in full precision; ours also in bfloat16 where the device has it natively.

    Args:
        image: a CT.
        prompt: of as many classes as one sentence holds.
        config: ``inference.json`` of a bundle whose network is a ``FiLMSwinUNETR``.
        weights: of that network.
    """
    settings = {"image": str(image), "prompt": prompt, "weights": str(weights), "inferer::mode": "constant"}
    parser, stock = ConfigParser(), stock_bundle(config, **settings)
    parser.read_config(config)
    parser.update(pairs=settings)
    for each in (parser, stock):
        each.get_parsed_content("checkpointloader")
    item = parser.get_parsed_content("dataset")[0]
    device = parser.get_parsed_content("device")
    batch, vector = list_data_collate([{"image": item["image"]}])["image"].to(device), item["text"][:1].to(device)
    inferer, network = parser.get_parsed_content("inferer"), parser.get_parsed_content("network").eval()
    request = item["text"][None].to(device), item["named"][None]
    theirs = stock.get_parsed_content("network").eval()
    class_set, trained = parser.get_parsed_content("class_set"), parser.get_parsed_content("trained")
    prepare = preparation(spacing=trained.spacing, window=class_set.intensity_window)
    prepared = list_data_collate([prepare({"image": str(image)})])["image"]
    with torch.inference_mode():
        expected = sliding_window_inference(
            prepared.to(device), trained.roi_size, 1, lambda part: theirs(part, vector), overlap=0.25, mode="constant"
        ).cpu()
        [decollated] = decollate_batch({"image": prepared, "pred": expected})
        masks = restoration(prepare, nearest=False)(decollated)["pred"]
    rows = []
    for amp in (False, True) if computes_bfloat16(torch.device(device)) else (False,):
        inferer.amp = amp
        with torch.inference_mode():
            ours = inferer(batch, network, *request)
            slabs = [slab.fresh.cpu().clone() for slab in inferer.predict_slabs(batch, network, *request)]
        logits = torch.cat(slabs, dim=1 + slab_axis(batch.shape[2:]))
        for channel, label in zip(logits, ours.labels, strict=True):
            working, grid = (expected[0, label - 1] >= 0).numpy(), np.asarray(masks[label - 1]) > 0
            if working.any():
                scores = dice((channel >= 0).numpy(), working), dice(ours.mask(label), grid)
                precision = "bfloat16" if amp else "float32"
                rows.append(Agreement(class_set[label].name, precision, int(working.sum()), *scores))
    return rows
