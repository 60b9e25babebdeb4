"""MONAI's SwinUNETR split into encoder and decoder: a baseline, and the trunk of the networks with text."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from monai.networks import nets

from custom.networks.blocks.head import init_foreground_prior, select_channels
from custom.networks.blocks.instance_norm import use_fp32_statistics
from custom.networks.blocks.memory_efficient import residual_block, use_memory_efficient_blocks
from custom.networks.blocks.up_block import project_skip, up_block
from custom.networks.described import DescribedNetwork, PublicLayout, ShapeOf


class Features(NamedTuple):
    """Encoder output of an image (B, in_channels, H, W, D), independent of text; F is ``feature_size``.

    The first two are the contribution of enc0 to the last block, see ``project_skip``.
    """

    enc0_inner: torch.Tensor  # (B, F, H, W, D)
    enc0_residual: torch.Tensor  # (B, F, H, W, D)
    enc1: torch.Tensor  # (B, F, H/2, W/2, D/2)
    enc2: torch.Tensor  # (B, 2F, H/4, W/4, D/4)
    enc3: torch.Tensor  # (B, 4F, H/8, W/8, D/8)
    hidden3: torch.Tensor  # (B, 8F, H/16, W/16, D/16)
    dec4: torch.Tensor  # (B, 16F, H/32, W/32, D/32)


class SwinUNETR(DescribedNetwork, nets.SwinUNETR):
    """MONAI's SwinUNETR as ``encode(image)`` and ``decode(features)``.

    Parameters keep MONAI's names. The head starts at a foreground probability of 1 % (``custom.networks.blocks.head``).
    This class ignores text and predicts every class; subclasses add text.

    Source: Hatamizadeh et al., Swin UNETR, arXiv:2201.01266.

    Args:
        out_channels: classes; one sigmoid logit map each.
        feature_size: F, a multiple of 12 (48 in the published networks).
        window_size: side of an attention window, in tokens.
        **swin_unetr: any further argument of ``monai.networks.nets.SwinUNETR`` (3D, patch size 2).
    """

    SETTINGS: ClassVar[dict[str, type]] = {"feature_size": int, "window_size": int}
    ENCODER = ("swinViT.",)
    HEAD: ClassVar[tuple[str, ...]] = ("out.",)
    MAY_LACK: ClassVar[dict[str, str]] = {r".+\.relative_position_index": "computed by the network"}
    #: The tensor whose first axis is the classes, and its number of axes.
    CLASSES_OF: ClassVar[tuple[str, int]] = ("out.conv.conv.weight", 5)
    ENCODER_ADVICE = "The files of MONAI's Swin UNETR need --feature_size 48 --network_def::window_size 7."
    LAYOUTS = (
        PublicLayout(
            "swinunetr_v2",
            r"(?:.*\.)?layers\dc\.",
            refusal="is a SwinUNETR-V2 (it has layers1c), whose networks are not supported: use a V1",
        ),
        PublicLayout(
            "swinunetr", r"encoder\d+\.|decoder\d+\.", {r"((?:swinViT|encoder\d+|decoder\d+|out)\..+)": r"\1"}
        ),
        PublicLayout(
            "swin_ssl",
            r"(?:swinViT\.)?(?:patch_embed|layers\d)\.",
            {r"(?:swinViT\.)?((?:patch_embed|layers\d)\..+)": r"swinViT.\1"},
            dropped={
                r"(?:(?:rotation|contrastive)_(?:pre|head)|convTrans3d|conv3d|conv)\..+": "head of the pretext tasks",
                r"norm\.(?:weight|bias)": "last normalisation of the pretext tasks, which SwinUNETR does not use",
            },
            encoder_only=True,
        ),
    )

    def __init__(
        self, in_channels: int, out_channels: int, feature_size: int, *, window_size: int = 7, **swin_unetr: Any
    ) -> None:
        super().__init__(in_channels, out_channels, feature_size=feature_size, window_size=window_size, **swin_unetr)
        self.in_channels = in_channels
        self.feature_size = feature_size
        self.window_size = window_size
        use_memory_efficient_blocks(self.swinViT)
        use_fp32_statistics(self)
        init_foreground_prior(self.get_parameter("out.conv.conv.bias"))

    @classmethod
    def read_settings(cls, shape: ShapeOf, layout: PublicLayout) -> dict[str, Any]:
        sizes: dict[str, Any] = dict(layout.settings)
        sizes["feature_size"], sizes["in_channels"] = shape("swinViT.patch_embed.proj.weight", 5)[:2]
        rows = shape("swinViT.layers1.0.blocks.0.attn.relative_position_bias_table", 2)[0]
        width = round(rows ** (1 / 3))
        if width**3 != rows or width % 2 == 0:
            raise ValueError(f"has windows that are no cubes ({rows} relative positions): not supported.")
        sizes["window_size"] = (width + 1) // 2
        if not layout.encoder_only:
            sizes["classes"] = shape(*cls.CLASSES_OF)[0]
        return sizes

    def encode(self, image: torch.Tensor) -> Features:
        """Compute everything that does not depend on text, of an image (B, in_channels, H, W, D).

        Raises:
            ValueError: an image of another rank or channel count, or with a side that is no multiple of 32. (32x32x32
                fails in training, since a bottleneck of one voxel cannot be instance-normalised.)
        """
        shape, multiple = tuple(image.shape), self.patch_size**5
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if not tracing and (len(shape) != 5 or shape[1] != self.in_channels):
            raise ValueError(f"The image must be (B, {self.in_channels}, H, W, D), not of shape {shape}.")
        if not tracing and any(side % multiple for side in shape[2:]):
            raise ValueError(
                f"Every side of the image must be a multiple of {multiple}, not {shape[2:]}: "
                "pad it, or use sliding windows (roi_size)."
            )
        low_res = self.encode_low_res(image)
        return Features(*self.encode_high_res(image), *low_res)

    def encode_high_res(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first two features: about half of the work of ``encode`` and nine tenths of its memory."""
        return project_skip(self.decoder1, residual_block(self.encoder1.layer, image))

    def encode_low_res(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The other features, in order."""
        hidden = self.swinViT(image, self.normalize)
        bottleneck = hidden[4]
        if image.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # CPU bfloat16 gives wrong Conv3d weight gradients on 2x2x2 maps (torch 2.13), the bottleneck of a 64-voxel
            # window. It is a hundredth of the work: keep it in float32.
            with torch.autocast("cpu", enabled=False):
                dec4 = self.encoder10(bottleneck.float())
        else:
            dec4 = self.encoder10(bottleneck)
        return self.encoder2(hidden[0]), self.encoder3(hidden[1]), self.encoder4(hidden[2]), hidden[3], dec4

    def decode(
        self, features: Features, text: torch.Tensor | None = None, *, channels: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits (B, K, H, W, D) of all or the given ``channels`` (0-based, in that order); ``text`` is ignored."""
        return select_channels(self.out, self.up(features), channels)

    def forward(self, image: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B, out_channels, H, W, D) of ``image`` (B, in_channels, H, W, D), under ``text`` if it is used."""
        return self.decode(self.encode(image), text)

    def up(
        self, features: Features, modulate: Callable[[str, torch.Tensor], torch.Tensor] = lambda _, x: x
    ) -> torch.Tensor:
        """Run the decoder up to the head: (B, F, H, W, D) of the features of B images.

        ``modulate`` is applied to the features of each site of ``SITE_CHANNELS``, given its name, before they are used.
        """
        dec4, hidden3 = modulate("dec4", features.dec4), modulate("hidden3", features.hidden3)
        dec3 = modulate("dec3", self.decoder5(dec4, hidden3))
        dec2 = modulate("dec2", self.decoder4(dec3, modulate("enc3", features.enc3)))
        dec1 = modulate("dec1", self.decoder3(dec2, modulate("enc2", features.enc2)))
        dec0 = self.decoder2(dec1, modulate("enc1", features.enc1))
        return up_block(self.decoder1, dec0, features[:2])
