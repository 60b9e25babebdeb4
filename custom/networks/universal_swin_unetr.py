"""The CLIP-Driven Universal Model: a SwinUNETR whose head is predicted per class from text and image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from custom.networks.blocks.head import init_foreground_prior
from custom.networks.described import KeyRule, PublicLayout, ShapeOf
from custom.networks.swin_unetr import Features, SwinUNETR

#: Channels of text and of image in the controller, and channels of the predicted head, as published.
CONDITION_CHANNELS = 256
HEAD_CHANNELS = 8

#: Groups of the published GroupNorms (of 48 and 768 channels).
NORM_GROUPS = 16

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
        in_channels: channels of the image.
        out_channels: K, the classes.
        feature_size: F, a multiple of 12.
        text_dim: E, the length of a class vector.
        text_bank: (K, E) vectors of the classes, stored with the weights; zeros by default.
        **swin_unetr: any further argument of ``monai.networks.nets.SwinUNETR`` (3D).

    Raises:
        ValueError: a text bank of another shape.
    """

    SETTINGS: ClassVar[Mapping[str, type]] = {"feature_size": int, "window_size": int, "text_dim": int}
    TEXT_LAYERS: ClassVar[tuple[str, ...]] = ("text_to_vision.", "controller.")
    TEXT_VECTORS: ClassVar[tuple[str, ...]] = ("text_bank",)
    HEAD: ClassVar[tuple[str, ...]] = ()
    LAYOUTS: ClassVar[tuple[PublicLayout, ...]] = (
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
            (
                KeyRule(r"(?:backbone\.)?((?:swinViT|encoder\d+|decoder\d+)\..+)", r"\1"),
                KeyRule(
                    r"(?:backbone\.)?out\..+",
                    None,
                    "head of the plain SwinUNETR, which the Universal Model does not use",
                ),
                KeyRule(r"organ_embedding", "text_bank"),
                KeyRule(r"GAP\.(.+)", r"pool.\1"),
                KeyRule(r"((?:text_to_vision|controller|precls_conv)\..+)", r"\1"),
            ),
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
        super().__init__(in_channels=in_channels, out_channels=out_channels, feature_size=feature_size, **swin_unetr)
        del self.out
        self.text_dim = text_dim
        if text_bank is None:
            text_bank = torch.zeros(out_channels, text_dim)
        if tuple(text_bank.shape) != (out_channels, text_dim):
            raise ValueError(
                f"The text bank must hold a vector for each class, {(out_channels, text_dim)}, not of shape "
                f"{tuple(text_bank.shape)}."
            )
        self.register_buffer("text_bank", text_bank.detach().float().clone())
        self.text_to_vision = nn.Linear(text_dim, CONDITION_CHANNELS)
        bottleneck = 16 * feature_size
        self.pool = nn.Sequential(
            nn.GroupNorm(math.gcd(NORM_GROUPS, bottleneck), bottleneck),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(bottleneck, CONDITION_CHANNELS, kernel_size=1),
        )
        self.precls_conv = nn.Sequential(
            nn.GroupNorm(math.gcd(NORM_GROUPS, feature_size), feature_size),
            nn.ReLU(),
            nn.Conv3d(feature_size, HEAD_CHANNELS, kernel_size=1),
        )
        square = HEAD_CHANNELS * HEAD_CHANNELS
        self.head_sizes = [square, square, HEAD_CHANNELS, HEAD_CHANNELS, HEAD_CHANNELS, 1]
        self.controller = nn.Conv3d(2 * CONDITION_CHANNELS, sum(self.head_sizes), kernel_size=1)
        init_foreground_prior(self.get_parameter("controller.bias").data[-1:])

    @classmethod
    def read_settings(cls, shape: ShapeOf, layout: PublicLayout) -> dict[str, Any]:
        return super().read_settings(shape, layout) | {"text_dim": shape("text_bank", 2)[1]}

    @classmethod
    def count_classes(cls, shape: ShapeOf) -> int:
        return shape("text_bank", 2)[0]

    def decode(
        self, features: Features, text: torch.Tensor | None = None, *, channels: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits (B, K, H, W, D) of all or the given ``channels`` (0-based, in that order); ``text`` is ignored."""
        decoded = self.up(features)
        bank = self.text_bank if channels is None else self.text_bank[list(channels)]
        batch, classes = decoded.shape[0], bank.shape[0]
        with torch.autocast(decoded.device.type, enabled=False):  # every voxel uses these weights
            head = torch.split(self._head(features.dec4.float(), bank), self.head_sizes, dim=-1)
        weight1, weight2, weight3 = (part.reshape(batch * classes, -1, HEAD_CHANNELS) for part in head[:3])
        bias1, bias2, bias3 = (part.reshape(batch * classes, -1, 1) for part in head[3:])
        weight1, bias1 = weight1.reshape(batch, -1, HEAD_CHANNELS), bias1.reshape(batch, -1, 1)
        logits = []
        for x in self.precls_conv(decoded).flatten(2).split(CHUNK, dim=-1):  # (B, 8, n)
            x = torch.baddbmm(bias1, weight1, x).relu_()  # (B, 8 K, n): the input is shared by all classes
            x = x.reshape(batch * classes, HEAD_CHANNELS, -1)
            x = torch.baddbmm(bias2, weight2, x).relu_()  # (B K, 8, n)
            logits.append(torch.baddbmm(bias3, weight3, x).reshape(batch, classes, -1))
        return torch.cat(logits, dim=-1).reshape(batch, classes, *decoded.shape[2:])

    def _head(self, bottleneck: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
        """Weights and biases (B, K, 153) of the head of each class of the bank (K, E) in each image."""
        image = self.pool(bottleneck).flatten(1)  # (B, 256)
        text = self.text_to_vision(bank).relu()  # (K, 256)
        batch, classes = image.shape[0], text.shape[0]
        condition = torch.cat(
            [image[:, None].expand(-1, classes, -1), text[None].expand(batch, -1, -1)], dim=-1
        )  # (B, K, 512)
        head: torch.Tensor = self.controller(condition.reshape(batch * classes, -1, 1, 1, 1))
        return head.reshape(batch, classes, -1)
