"""UNETR with the interface of the networks with text."""

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks import nets

from custom.networks.blocks.head import init_foreground_prior
from custom.networks.blocks.instance_norm import use_fp32_statistics


class UNETR(nets.UNETR):
    """MONAI's UNETR, which ignores text and predicts every class: ``encode`` is the whole network.

    Parameters keep MONAI's names. The head starts at a foreground probability of 1 % (``custom.networks.blocks.head``).
    The MLP is four times as wide as the tokens, as published (3072 for ``hidden_size`` 768). Position embeddings fix
    the window size.

    Source: Hatamizadeh et al., arXiv:2103.10504.

    Args:
        in_channels: channels of the image.
        out_channels: classes; one logit map each.
        img_size: the window (H, W, D) in voxels, multiples of 16.
        feature_size: channels of the first level of the decoder.
        hidden_size: channels of a token, a multiple of ``num_heads``.
        num_heads: attention heads. Weights load into any number of heads, but give right results only with their own.
        **unetr: any further argument of ``monai.networks.nets.UNETR``.

    Raises:
        ValueError: a hidden size that is no multiple of the heads; in ``encode``, an image of another size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: Sequence[int],
        *,
        feature_size: int = 16,
        hidden_size: int = 768,
        num_heads: int = 12,
        **unetr: Any,
    ) -> None:
        if num_heads < 1 or hidden_size < 1 or hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads, {num_heads}, not {hidden_size}.")
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            img_size=tuple(img_size),
            feature_size=feature_size,
            hidden_size=hidden_size,
            mlp_dim=4 * hidden_size,
            num_heads=num_heads,
            **unetr,
        )
        self.img_size = tuple(img_size)
        use_fp32_statistics(self)
        for name, parameter in self.named_parameters():
            if ".norm_cross_attn." in name:  # unused in MONAI's blocks; DistributedDataParallel would await gradients
                parameter.requires_grad_(False)
        init_foreground_prior(self.get_parameter("out.conv.conv.bias"))

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, H, W, D) of ``image`` (B, C, H, W, D), whose sides are ``img_size``."""
        if not torch.jit.is_tracing() and tuple(image.shape[2:]) != self.img_size:  # type: ignore[attr-defined,no-untyped-call]
            raise ValueError(
                f"UNETR's position embeddings are for images of {self.img_size} voxels, not {tuple(image.shape[2:])}: "
                "set roi_size to that size."
            )
        logits: torch.Tensor = super().forward(image)
        return logits

    def decode(
        self, features: torch.Tensor, text: torch.Tensor | None = None, *, channels: Sequence[int] | None = None
    ) -> torch.Tensor:
        """The logits from ``encode``, of all or the given ``channels`` (0-based); ``text`` is ignored."""
        return features if channels is None else features[:, list(channels)]

    def forward(self, image: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B, K, H, W, D) of ``image`` (B, C, H, W, D); ``text`` is ignored."""
        return self.encode(image)
