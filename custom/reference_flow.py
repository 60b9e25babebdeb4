"""How the references segment a CT, with stock parts of MONAI: what our own way is measured against.

Full precision, one window at a time with constant blending, all channels over the whole volume, all of them inverted to
the image's grid by nearest neighbour, as the public code of the reference documents does.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset, decollate_batch
from monai.inferers import sliding_window_inference
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

from custom.networks import FiLMSwinUNETR


class StockFiLMSwinUNETR(FiLMSwinUNETR):
    """The same network through MONAI's own blocks, in one pass."""

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
    """From logits on the working grid to masks on the image's, by nearest neighbour or from probabilities."""
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
) -> dict[str, Any]:
    """Segment one CT and write all masks and the merged map.

    Returns:
        ``logits`` (K, H, W, D) on the working grid, ``masks`` (K, H, W, D) on the image's, and the seconds of
        ``network``.
    """
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
    masks = restoration(prepare)(dict(item))["pred"]
    save = SaveImage(output_dir, output_postfix="masks", output_dtype=np.uint8, separate_folder=False, print_log=False)
    save(masks)
    values = torch.arange(1, masks.shape[0] + 1)[:, None, None, None]
    save.folder_layout.postfix = "merged"
    save((masks * values).amax(0, keepdim=True))
    return {"logits": logits[0].cpu(), "masks": masks, "seconds": seconds}
