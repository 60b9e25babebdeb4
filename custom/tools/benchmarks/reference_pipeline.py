"""How the references segment a CT, in stock MONAI: the pipeline that our inference is measured against.

Full precision, one window at a time with constant blending, all channels over the whole volume, each of them inverted
to the image's grid by nearest neighbour, as in the references' public code.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import decollate_batch, list_data_collate
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
from custom.prompts.sentences import write_sentence
from custom.tools.benchmarks.position_baseline import dice
from custom.tools.benchmarks.running import ROOT, read_config
from custom.utils.compat import without_nvimgcodec_warning
from custom.utils.precision import computes_bfloat16

#: Weights of the comparison of masks, and what they find.
DEMO = ROOT / "bundles" / "film_swinunetr" / "models" / "demo.safetensors"
PROMPT = "liver, spleen, both kidneys, aorta, bladder, lungs"


class StockFiLMSwinUNETR(FiLMSwinUNETR):
    """The same network (variant "film") with MONAI's own blocks, in one pass."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        theirs = {WindowAttention: StockWindowAttention, SwinStage: StockSwinStage}
        for module in self.modules():
            module.__class__ = theirs.get(type(module), type(module))

    def forward(self, image: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        vector = self.default_text if text is None else text
        h0, h1, h2, h3, h4 = self.swinViT(image, self.normalize)
        enc0, enc1, enc2, enc3 = self.encoder1(image), self.encoder2(h0), self.encoder3(h1), self.encoder4(h2)
        dec3 = self.decoder5(self.film["dec4"](self.encoder10(h4), vector), h3)
        dec2 = self.decoder4(self.film["dec3"](dec3, vector), enc3)
        dec1 = self.decoder3(self.film["dec2"](dec2, vector), enc2)
        dec0 = self.decoder2(self.film["dec1"](dec1, vector), enc1)
        logits: torch.Tensor = self.out(self.decoder1(dec0, enc0))
        return logits


def preparation(*labels: str, spacing: Sequence[float], window: Sequence[float]) -> Compose:
    """Read a CT and bring it to the working grid, with the labels under these keys, which are read already."""
    keys = ("image", *labels)
    with without_nvimgcodec_warning():
        load = LoadImaged("image")
    return Compose(
        [
            load,
            EnsureChannelFirstd("image"),
            Orientationd(keys, axcodes="RAS", labels=None),
            Spacingd(keys, pixdim=spacing, mode=["bilinear", *("nearest" for _ in labels)]),
            ScaleIntensityRanged("image", *window, 0.0, 1.0, clip=True),
            CropForegroundd(keys, source_key="image"),
        ]
    )


class ReferencePipeline:
    """The pipeline, with the settings and weights of the bundle's ``inference.json``, some of them overridden."""

    def __init__(self, **settings: Any) -> None:
        network = {"_target_": f"{__name__}.{StockFiLMSwinUNETR.__name__}", "use_flash_attention": False}
        parser = read_config("inference", settings | {f"network_def::{key}": value for key, value in network.items()})
        parser.get_parsed_content("checkpointloader")
        keys = ("class_set", "device", "trained", "bank", "network")
        self.class_set, self.device, self.trained, self.bank, self.network = map(parser.get_parsed_content, keys)
        self.prepare = preparation(spacing=self.trained.spacing, window=self.class_set.intensity_window)

    def read(self, image: str | Path) -> torch.Tensor:
        """The image on the working grid, (1, 1, H, W, D)."""
        prepared: torch.Tensor = list_data_collate([self.prepare({"image": str(image)})])["image"]
        return prepared

    @torch.no_grad()
    def predict(self, prepared: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Logits on the working grid, (1, K, H, W, D)."""
        network = partial(self.network.eval(), text=text.to(self.device))
        image, roi_size = prepared.to(self.device), self.trained.roi_size
        logits: torch.Tensor = sliding_window_inference(image, roi_size, 1, network, overlap=0.25, mode="constant")
        return logits

    def restore(self, prepared: torch.Tensor, logits: torch.Tensor, *, nearest: bool) -> torch.Tensor:
        """Masks (K, H, W, D) on the image's grid, by nearest neighbour or from interpolated probabilities."""
        [item] = decollate_batch({"image": prepared, "pred": logits})
        restoration = Compose(
            [
                Activationsd("pred", sigmoid=True),
                Invertd("pred", transform=self.prepare, orig_keys="image", nearest_interp=nearest, to_tensor=True),
                AsDiscreted("pred", threshold=0.5),
            ]
        )
        masks: torch.Tensor = restoration(item)["pred"]
        return masks


def segment_reference(image: str, output_dir: str, **settings: Any) -> dict[str, Any]:
    """Segment a CT, write all masks and the merged map, and return the seconds of the network."""
    pipeline = ReferencePipeline(**settings)
    vector = pipeline.bank([write_sentence(pipeline.class_set, [pipeline.class_set.index("liver")])])
    prepared = pipeline.read(image)
    start = time.perf_counter()
    logits = pipeline.predict(prepared, vector)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    masks = pipeline.restore(prepared, logits, nearest=True)
    save = SaveImage(output_dir, output_postfix="masks", output_dtype=np.uint8, separate_folder=False, print_log=False)
    save(masks)
    values = torch.arange(1, masks.shape[0] + 1)[:, None, None, None]
    save.folder_layout.postfix = "merged"
    save((masks * values).amax(0, keepdim=True))
    return {"stages": {"network": seconds}}


def agreement(image: str | Path) -> list[dict[str, Any]]:
    """Segment a CT with both pipelines and the demonstration's weights, and compare the masks of ``PROMPT``.

    Both compute in full precision; ours also in bfloat16 where the device has it natively.

    Returns:
        A row for each class that the reference finds: ``name``; ``precision`` of ours, "float32" or "bfloat16";
        ``voxels`` of the reference mask at working resolution; Dice there (``working``) and on the CT's grid (``grid``,
        against interpolated probabilities of the reference).
    """
    settings: dict[str, Any] = {"image": str(image), "prompt": PROMPT, "weights": str(DEMO)}
    settings |= {"inferer::mode": "constant", "group_size": 15}  # one sentence
    parser, reference = read_config("inference", settings), ReferencePipeline(**settings)
    parser.get_parsed_content("checkpointloader")
    item = parser.get_parsed_content("dataset")[0]
    batch = list_data_collate([{"image": item["image"]}])["image"].to(reference.device)
    inferer, network = parser.get_parsed_content("inferer"), parser.get_parsed_content("network").eval()
    request = item["text"][None].to(reference.device), item["named"][None]
    prepared = reference.read(image)
    expected = reference.predict(prepared, item["text"][:1]).cpu()
    masks = reference.restore(prepared, expected, nearest=False)
    rows = []
    for amp in (False, True) if computes_bfloat16(reference.device) else (False,):
        inferer.amp = amp
        with torch.inference_mode():
            ours = inferer(batch, network, *request)
            slabs = [slab.fresh.cpu().clone() for slab in inferer.predict_slabs(batch, network, *request)]
        logits = torch.cat(slabs, dim=1 + slab_axis(batch.shape[2:]))
        for channel, label in zip(logits, ours.labels, strict=True):
            working, grid = (expected[0, label - 1] >= 0).numpy(), np.asarray(masks[label - 1]) > 0
            if working.any():
                row = {"name": reference.class_set[label].name, "precision": "bfloat16" if amp else "float32"}
                scores = {"working": dice((channel >= 0).numpy(), working), "grid": dice(ours.mask(label), grid)}
                rows.append(row | {"voxels": int(working.sum())} | scores)
    return rows
