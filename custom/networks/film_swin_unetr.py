"""SwinUNETR with FiLM layers at declared sites (Deep FiLM, Deep FiLM 2)."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from custom.networks.blocks.head import select_channels
from custom.networks.described import PublicLayout, ShapeOf
from custom.networks.film import FiLM, ResidualFiLM
from custom.networks.swin_unetr import Features, SwinUNETR

logger = logging.getLogger(__name__)

#: Channels of each site where text may enter, in multiples of ``feature_size``.
SITE_CHANNELS = {"enc1": 1, "enc2": 2, "enc3": 4, "hidden3": 8, "dec4": 16, "dec3": 8, "dec2": 4, "dec1": 2}


class Variant(NamedTuple):
    """The sites where text enters, and the layer ``block(text_dim, channels)`` used there."""

    block: type[nn.Module]
    sites: tuple[str, ...]


#: A new variant needs one line here.
VARIANTS = {
    "film": Variant(FiLM, ("dec4", "dec3", "dec2", "dec1")),
    "film2": Variant(ResidualFiLM, ("enc1", "enc2", "enc3", "hidden3", "dec4")),
    "bottleneck": Variant(FiLM, ("dec4",)),
}


def _authors_layout(variant: str, mark: str) -> PublicLayout:
    """The author's network of a variant: its blocks are numbered by channel width, ours named after their site."""
    sites = sorted(VARIANTS[variant].sites, key=SITE_CHANNELS.__getitem__)
    blocks = ["film_block"] if variant == "bottleneck" else [rf"deep_film_block\.{i}" for i in range(len(sites))]
    rules = {r"swin_unetr\.(.+)": r"\1"}
    for block, site in zip(blocks, sites, strict=True):
        rules |= {rf"{block}\.((?:gamma|beta)\..+)": rf"film.{site}.\1"}
        rules |= {rf"{block}\.layer_norm\.(.+)": rf"film.{site}.norm.\1"}
    dropped = {r"text_encoder\..+": "frozen text encoder, which no weights of ours hold"}
    return PublicLayout(variant, mark, rules, dropped, {"variant": variant})


class FiLMSwinUNETR(SwinUNETR):
    """SwinUNETR with text-conditioned modulation at declared sites.

    Text never enters the Swin encoder, so one ``encode(image)`` serves any number of ``decode(features, text)``.
    Backbone parameters keep MONAI's names; the modulation layers are ``film.<site>``.

    - "film" (Deep FiLM) modulates the decoder features dec4, dec3, dec2 and dec1 (16F, 8F, 4F and 2F channels) before
      each is upsampled;
    - "film2" (Deep FiLM 2) modulates the encoder outputs enc1, enc2, enc3, hidden3 and dec4 (F, 2F, 4F, 8F and 16F
      channels) through ``ResidualFiLM``;
    - "bottleneck" modulates dec4 only (the references' early ablation).

    Source: Hatamizadeh et al., Swin UNETR, arXiv:2201.01266; Perez et al., FiLM, arXiv:1709.07871.

    Args:
        out_channels: classes; one sigmoid logit map each.
        feature_size: F, a multiple of 12 (48 in the published networks).
        text_dim: E, the length of a text vector (512 for CLIP ViT-B/32, 384 for MiniLM).
        variant: a key of ``VARIANTS``.
        default_text: vector (E,) of the prompt used when none is given, stored with the weights; zeros by default.
        **swin_unetr: any further argument of ``monai.networks.nets.SwinUNETR`` (3D, patch size 2).

    Raises:
        ValueError: an unknown variant, a text dimension below 1, or a default vector of another length.
    """

    SETTINGS: ClassVar[dict[str, type]] = {"variant": str, "feature_size": int, "window_size": int, "text_dim": int}
    TEXT_LAYERS = ("film.",)
    TEXT_VECTORS = ("default_text",)
    MAY_LACK = SwinUNETR.MAY_LACK | {"default_text": "ours: the vector of the default prompt"}
    LAYOUTS = (
        _authors_layout("film2", r"deep_film_block\.\d+\.layer_norm\."),
        _authors_layout("film", r"deep_film_block\."),
        _authors_layout("bottleneck", r"film_block\."),
    )

    default_text: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        feature_size: int,
        text_dim: int,
        variant: str = "film",
        *,
        default_text: torch.Tensor | None = None,
        **swin_unetr: Any,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}.")
        if text_dim < 1:
            raise ValueError(f"text_dim must be the length of a text vector, at least 1, not {text_dim}.")
        super().__init__(in_channels, out_channels, feature_size, **swin_unetr)
        self.text_dim = text_dim
        self.variant = variant
        block, sites = VARIANTS[variant]
        self.film = nn.ModuleDict({site: block(text_dim, SITE_CHANNELS[site] * feature_size) for site in sites})
        default_text = torch.zeros(text_dim) if default_text is None else default_text
        if default_text.numel() != text_dim:
            raise ValueError(
                f"default_text must hold text_dim = {text_dim} values, not {default_text.numel()}: "
                "use the encoder that text_dim belongs to."
            )
        self.register_buffer("default_text", default_text.detach().float().reshape(1, text_dim).clone())

    @classmethod
    def read_settings(cls, shape: ShapeOf, layout: PublicLayout) -> dict[str, Any]:
        return super().read_settings(shape, layout) | {"text_dim": shape("film.dec4.gamma.weight", 2)[1]}

    def decode(
        self, features: Features, text: torch.Tensor | None = None, *, channels: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits (B, K, H, W, D) of ``encode`` of B images, of all or the given ``channels`` (0-based, in that order).

        Args:
            text: (B, E), one vector per image, or (1, E), one for all; None means ``default_text``.
            channels: None means all ``out_channels``.

        Raises:
            ValueError: text of another rank, length or batch size.
        """
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if text is None:
            text = self.default_text
            if tracing:
                logger.warning("Traced without text: the vector of the weights' default prompt is baked in.")
        elif not tracing:
            self._check_text(tuple(text.shape), batch=features.dec4.shape[0])

        def modulate(site: str, x: torch.Tensor) -> torch.Tensor:
            return self.film[site](x, text) if site in self.film else x

        return select_channels(self.out, self.up(features, modulate), channels)

    def _check_text(self, shape: tuple[int, ...], *, batch: int) -> None:
        if len(shape) != 2 or shape[1] != self.text_dim:
            raise ValueError(
                f"Text must be (B, {self.text_dim}) or (1, {self.text_dim}), not of shape {shape}: these weights "
                f"belong to an encoder of dimension {self.text_dim}; encode strings first (custom.text)."
            )
        if shape[0] not in (1, batch):
            raise ValueError(f"Text must hold one vector, or one for each of the {batch} images, not {shape[0]}.")
