"""The CLIP-Driven Universal Model: a SwinUNETR whose head is predicted per class from text and image."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from custom.networks.blocks.head import init_foreground_prior
from custom.networks.described import PublicLayout, ShapeOf
from custom.networks.swin_unetr import Features, SwinUNETR

#: Channels of text and of image in the controller, and channels of the predicted head, as published.
CONDITION_CHANNELS = 256
HEAD_CHANNELS = 8

#: Voxels per step of the heads: intermediate results stay in the CPU's cache, which is some ten times faster than whole
#: windows and bounds memory.
CHUNK = 4096


class UniversalSwinUNETR(SwinUNETR):
    """SwinUNETR whose head is three 1x1x1 convolutions with weights predicted by a controller.

    With class vectors t (K, E), decoder output x (B, F, H, W, D) and bottleneck z (B, 16F, ...):

        p[b, k] = controller([pool(z)[b], ReLU(text_to_vision(t))[k]])         (153 numbers per image and class)
        logits[b, k] = conv3(ReLU(conv2(ReLU(conv1(precls_conv(x)[b])))))      (8 -> 8 -> 8 -> 1, from p[b, k])

    where pool is GroupNorm, ReLU, global average and a 1x1x1 convolution to 256, and precls_conv is GroupNorm, ReLU and
    a 1x1x1 convolution to 8. Text belongs to the classes: the prompt is ignored and every class predicted. GroupNorms
    have gcd(16, channels) groups, 16 where published.

    Source: Liu et al., CLIP-Driven Universal Model, arXiv:2301.00785; the formulas, none of its code.

    Args:
        out_channels: K, the classes.
        feature_size: F, a multiple of 12.
        text_dim: E, the length of a class vector.
        text_bank: (K, E) vectors of the classes, stored with the weights; zeros by default.
        **swin_unetr: any further argument of ``monai.networks.nets.SwinUNETR`` (3D).

    Raises:
        ValueError: a text bank of another shape.
    """

    SETTINGS: ClassVar[dict[str, type]] = {"feature_size": int, "window_size": int, "text_dim": int}
    TEXT_LAYERS = ("text_to_vision.", "controller.")
    TEXT_VECTORS = ("text_bank",)
    HEAD = ()
    CLASSES_OF = ("text_bank", 2)
    LAYOUTS = (
        PublicLayout(
            "universal_learned",
            r"organ_embedding\.weight",
            refusal="is a Universal Model with learned class vectors (rand_embedding), which reads no text. Only the "
            "one with text vectors (word_embedding: organ_embedding and text_to_vision) is supported",
        ),
        PublicLayout(
            "universal_other_backbone",
            r"backbone\.(?!swinViT|encoder|decoder|out)",
            refusal="is a Universal Model on another backbone than SwinUNETR, which is not supported",
        ),
        PublicLayout(
            "universal",
            r"organ_embedding|controller\.|precls_conv\.|GAP\.|text_to_vision\.",
            {
                r"(?:backbone\.)?((?:swinViT|encoder\d+|decoder\d+)\..+)": r"\1",
                r"organ_embedding": "text_bank",
                r"GAP\.(.+)": r"pool.\1",
                r"((?:text_to_vision|controller|precls_conv)\..+)": r"\1",
            },
            dropped={r"(?:backbone\.)?out\..+": "head of the plain SwinUNETR, which the Universal Model does not use"},
        ),
    )

    text_bank: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        feature_size: int,
        text_dim: int,
        *,
        text_bank: torch.Tensor | None = None,
        **swin_unetr: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, feature_size, **swin_unetr)
        del self.out
        self.text_dim = text_dim
        text_bank = torch.zeros(out_channels, text_dim) if text_bank is None else text_bank
        if tuple(text_bank.shape) != (out_channels, text_dim):
            raise ValueError(
                f"The text bank must hold a vector for each class, {(out_channels, text_dim)}, not of shape "
                f"{tuple(text_bank.shape)}."
            )
        self.register_buffer("text_bank", text_bank.detach().float().clone())
        self.text_to_vision = nn.Linear(text_dim, CONDITION_CHANNELS)
        bottleneck = 16 * feature_size
        pooled = nn.Conv3d(bottleneck, CONDITION_CHANNELS, kernel_size=1)
        self.pool = nn.Sequential(_group_norm(bottleneck), nn.ReLU(), nn.AdaptiveAvgPool3d(1), pooled)
        preclassified = nn.Conv3d(feature_size, HEAD_CHANNELS, kernel_size=1)
        self.precls_conv = nn.Sequential(_group_norm(feature_size), nn.ReLU(), preclassified)
        self.head_sizes = [HEAD_CHANNELS**2] * 2 + [HEAD_CHANNELS] * 3 + [1]
        self.controller = nn.Conv3d(2 * CONDITION_CHANNELS, sum(self.head_sizes), kernel_size=1)
        init_foreground_prior(self.get_parameter("controller.bias").data[-1:])

    @classmethod
    def read_settings(cls, shape: ShapeOf, layout: PublicLayout) -> dict[str, Any]:
        return super().read_settings(shape, layout) | {"text_dim": shape("text_bank", 2)[1]}

    def decode(
        self, features: Features, text: torch.Tensor | None = None, *, channels: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits (B, K, H, W, D) of all or the given ``channels`` (0-based, in that order); ``text`` is ignored."""
        decoded = self.up(features)
        bank = self.text_bank if channels is None else self.text_bank[list(channels)]
        batch, classes = decoded.shape[0], bank.shape[0]
        with torch.autocast(decoded.device.type, enabled=False):  # every voxel uses these weights
            seen = self.pool(features.dec4.float()).flatten(1)  # (B, 256)
            named = self.text_to_vision(bank).relu()  # (K, 256)
            condition = torch.cat([seen[:, None].expand(-1, classes, -1), named.expand(batch, -1, -1)], dim=-1)
            head = self.controller(condition.reshape(batch * classes, -1, 1, 1, 1)).flatten(1)  # (B K, 153)
        parts = torch.split(head, self.head_sizes, dim=1)
        weight1, weight2, weight3 = (part.reshape(batch * classes, -1, HEAD_CHANNELS) for part in parts[:3])
        bias1, bias2, bias3 = (part.reshape(batch * classes, -1, 1) for part in parts[3:])
        weight1, bias1 = weight1.reshape(batch, -1, HEAD_CHANNELS), bias1.reshape(batch, -1, 1)
        logits = []
        for x in self.precls_conv(decoded).flatten(2).split(CHUNK, dim=-1):  # (B, 8, n)
            x = torch.baddbmm(bias1, weight1, x).relu_()  # (B, 8 K, n): the input is shared by all classes
            x = x.reshape(batch * classes, HEAD_CHANNELS, -1)
            x = torch.baddbmm(bias2, weight2, x).relu_()  # (B K, 8, n)
            logits.append(torch.baddbmm(bias3, weight3, x).reshape(batch, classes, -1))
        return torch.cat(logits, dim=-1).reshape(batch, classes, *decoded.shape[2:])


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(16, channels), channels)
