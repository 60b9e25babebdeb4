"""UNETR with the interface of the networks with text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from monai.networks import nets

from custom.networks.blocks.head import init_foreground_prior
from custom.networks.blocks.instance_norm import use_fp32_statistics
from custom.networks.described import DescribedNetwork, PublicLayout, ShapeOf

#: Side of a patch, in voxels.
PATCH = 16


class UNETR(DescribedNetwork, nets.UNETR):
    """MONAI's UNETR, which ignores text and predicts every class: ``encode`` is the whole network.

    Parameters keep MONAI's names. The head starts at a foreground probability of 1 % (``custom.networks.blocks.head``).
    The MLP is four times as wide as the tokens, as published (3072 for ``hidden_size`` 768). Position embeddings fix
    the window size.

    Source: Hatamizadeh et al., arXiv:2103.10504.

    Args:
        out_channels: classes; one logit map each.
        img_size: the window (H, W, D) in voxels, multiples of 16.
        feature_size: channels of the first level of the decoder.
        hidden_size: channels of a token, a multiple of ``num_heads``.
        num_heads: attention heads. Weights load into any number of heads, but give right results only with their own.
        **unetr: any further argument of ``monai.networks.nets.UNETR``.

    Raises:
        ValueError: a hidden size that is no multiple of the heads; in ``encode``, an image of another size.
    """

    SETTINGS: ClassVar[dict[str, type]] = {"feature_size": int, "hidden_size": int, "num_heads": int, "img_size": list}
    ENCODER = ("vit.",)
    UNUSED = ".norm_cross_attn."
    HEAD = ("out.",)
    MAY_LACK: ClassVar[dict[str, str]] = {r"vit\.blocks\.\d+\.norm_cross_attn\..+": "unused by UNETR"}
    ENCODER_ADVICE = "Set hidden_size and roi_size to those of its training."
    LAYOUTS = (
        PublicLayout(
            "unetr",
            r"vit\.",
            {
                r"vit\.patch_embedding\.patch_embeddings\.1\.(weight|bias)": r"vit.patch_embedding.patch_embeddings.\1",
                r"((?:vit|encoder\d+|decoder\d+|out)\..+)": r"\1",
            },
            dropped={r"vit\.patch_embedding\.cls_token": "class token, which UNETR does not read"},
        ),
    )

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
        widths = {"feature_size": feature_size, "hidden_size": hidden_size, "mlp_dim": 4 * hidden_size}
        super().__init__(in_channels, out_channels, tuple(img_size), num_heads=num_heads, **widths, **unetr)
        self.img_size = tuple(img_size)
        self.feature_size = feature_size
        self.num_heads = num_heads
        use_fp32_statistics(self)
        for name, parameter in self.named_parameters():
            if self.UNUSED in name:  # unused in MONAI's blocks; DistributedDataParallel would await gradients
                parameter.requires_grad_(False)
        init_foreground_prior(self.get_parameter("out.conv.conv.bias"))

    @classmethod
    def read_settings(cls, shape: ShapeOf, layout: PublicLayout) -> dict[str, Any]:
        """See the base class; attention heads, which a file does not tell, are MONAI's twelve."""
        sizes: dict[str, Any] = {}
        sizes["feature_size"], sizes["in_channels"] = shape("encoder1.layer.conv1.conv.weight", 5)[:2]
        _, sizes["positions"], sizes["hidden_size"] = shape("vit.patch_embedding.position_embeddings", 3)
        return sizes | {"num_heads": 12, "classes": shape("out.conv.conv.weight", 5)[0]}

    @classmethod
    def complete_settings(
        cls, sizes: Mapping[str, Any], roi_size: Sequence[int] | None
    ) -> tuple[dict[str, Any], list[int]]:
        """See the base class; the position embeddings count the patches of the window, a cube unless stated."""
        positions = sizes["positions"]
        window = list(roi_size or [round(positions ** (1 / 3)) * PATCH] * 3)
        patches = math.prod(side // PATCH for side in window)
        if patches != positions:
            raise ValueError(
                f"has {positions} position embeddings, one for each patch of {PATCH} voxels a side; a window of "
                f"{window} has {patches}. State the window of its training: --roi_size."
            )
        if any(side % 32 for side in window):
            raise ValueError(f"has a window of {window}; only multiples of 32 voxels a side are supported.")
        return super().complete_settings({**sizes, "img_size": window}, window)

    @classmethod
    def adapt(cls, state: dict[str, torch.Tensor]) -> None:
        """Older UNETRs multiply flattened patches (p1 p2 p3 c) by a matrix: the same as a convolution of stride 16."""
        name = "vit.patch_embedding.patch_embeddings.weight"
        if name in state and state[name].ndim == 2 and state[name].shape[1] == PATCH**3:  # one channel, as CT has
            state[name] = state[name].reshape(-1, 1, PATCH, PATCH, PATCH)

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
