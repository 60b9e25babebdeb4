"""SwinUNETR whose decoder listens to a text vector (Deep FiLM)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from monai.networks.nets import SwinUNETR
from torch import nn

from custom.networks.film import FiLM

#: Channels of every place where text may enter, in multiples of ``feature_size``.
SITE_CHANNELS: Mapping[str, int] = {
    "enc1": 1,
    "enc2": 2,
    "enc3": 4,
    "hidden3": 8,
    "dec4": 16,
    "dec3": 8,
    "dec2": 4,
    "dec1": 2,
}


#: Probability that the untrained head gives every voxel of every class.
FOREGROUND_PRIOR = 0.01


class Variant(NamedTuple):
    """Where text enters the network, and through which block ``block(text_dim, channels)``."""

    block: type[nn.Module]
    sites: tuple[str, ...]


#: The declared variants. A further one is one line here.
VARIANTS: Mapping[str, Variant] = {"film": Variant(FiLM, ("dec4", "dec3", "dec2", "dec1"))}


class Features(NamedTuple):
    """What the encoder makes of an image: everything the decoder needs that does not depend on text.

    Shapes for an image (B, in_channels, H, W, D) and F = feature_size.
    """

    enc0: torch.Tensor  # (B, F, H, W, D)
    enc1: torch.Tensor  # (B, F, H/2, W/2, D/2)
    enc2: torch.Tensor  # (B, 2F, H/4, W/4, D/4)
    enc3: torch.Tensor  # (B, 4F, H/8, W/8, D/8)
    hidden3: torch.Tensor  # (B, 8F, H/16, W/16, D/16)
    dec4: torch.Tensor  # (B, 16F, H/32, W/32, D/32)


class FiLMSwinUNETR(SwinUNETR):
    """MONAI's SwinUNETR with text-conditioned modulation at declared sites.

    Text never enters the Swin encoder, so one ``encode(image)`` serves any number of ``decode(features, text)``.
    The head starts at a foreground probability of 1 % (Lin et al., Focal Loss, arXiv:1708.02002, section 4.1).
    All backbone parameters keep MONAI's names; the modulation lives under ``film.<site>``.
    Variant "film" modulates the decoder: dec4, dec3, dec2, dec1 (16F, 8F, 4F and 2F channels), each before it is
    upsampled.

    Source: Hatamizadeh et al., Swin UNETR, arXiv:2201.01266; Perez et al., FiLM, arXiv:1709.07871.

    Args:
        in_channels: channels of the image.
        out_channels: classes; one logit map each, to be read through a sigmoid.
        feature_size: F, a multiple of 12 (48 in the published networks).
        text_dim: E, the length of a text vector (512 for CLIP ViT-B/32, 384 for MiniLM).
        variant: a key of ``VARIANTS``.
        default_text: vector (E,) of the prompt that stands in when none is given; kept with the weights.
            Zeros until it is set or loaded.
        **swin_unetr: any further argument of ``monai.networks.nets.SwinUNETR`` (3D, patch size 2).

    Raises:
        ValueError: an unknown variant, a text dimension below 1, or a default vector of another length.
    """

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
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            feature_size=feature_size,
            **swin_unetr,
        )
        # Most voxels are background: from even odds, hundreds of steps would go into learning only that.
        prior = torch.tensor(FOREGROUND_PRIOR)
        nn.init.constant_(self.out.conv.conv.bias, float(prior.logit()))
        self.in_channels = in_channels
        self.text_dim = text_dim
        self.variant = variant
        block, sites = VARIANTS[variant]
        self.film = nn.ModuleDict({site: block(text_dim, SITE_CHANNELS[site] * feature_size) for site in sites})
        if default_text is None:
            default_text = torch.zeros(text_dim)
        if default_text.numel() != text_dim:
            raise ValueError(
                f"default_text must hold text_dim = {text_dim} values, not {default_text.numel()}: "
                "use the encoder that text_dim belongs to."
            )
        self.register_buffer("default_text", default_text.detach().float().reshape(1, text_dim).clone())

    def encode(self, image: torch.Tensor) -> Features:
        """Compute all that does not depend on text.

        Args:
            image: (B, in_channels, H, W, D); H, W and D multiples of 32. A side of 32 alone fails in training, since
                a bottleneck of one voxel cannot be instance-normalised; use 64 or more.

        Raises:
            ValueError: an image of another rank, of other channels, or with a side that is no multiple of 32.
        """
        self._check_image(image)
        hidden = self.swinViT(image, self.normalize)
        bottleneck = hidden[4]
        if image.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # CPU bfloat16 gives wrong Conv3d weight gradients on 2x2x2 maps (torch 2.13), which is what the
            # bottleneck of a 64-voxel window is. It is a hundredth of the work: keep it in float32.
            with torch.autocast("cpu", enabled=False):
                dec4 = self.encoder10(bottleneck.float())
        else:
            dec4 = self.encoder10(bottleneck)
        return Features(
            enc0=self.encoder1(image),
            enc1=self.encoder2(hidden[0]),
            enc2=self.encoder3(hidden[1]),
            enc3=self.encoder4(hidden[2]),
            hidden3=hidden[3],
            dec4=dec4,
        )

    def decode(self, features: Features, text: torch.Tensor) -> torch.Tensor:
        """Turn encoded features and a text vector into logits.

        Args:
            features: what ``encode`` returned for a batch of B images.
            text: (B, E), a vector each, or (1, E), one for all.

        Returns:
            Logits (B, out_channels, H, W, D).

        Raises:
            ValueError: text of another rank, length or batch size.
        """
        self._check_text(text, batch=features.dec4.shape[0])
        dec4 = self._modulate("dec4", features.dec4, text)
        hidden3 = self._modulate("hidden3", features.hidden3, text)
        dec3 = self._modulate("dec3", self.decoder5(dec4, hidden3), text)
        dec2 = self._modulate("dec2", self.decoder4(dec3, self._modulate("enc3", features.enc3, text)), text)
        dec1 = self._modulate("dec1", self.decoder3(dec2, self._modulate("enc2", features.enc2, text)), text)
        dec0 = self.decoder2(dec1, self._modulate("enc1", features.enc1, text))
        logits: torch.Tensor = self.out(self.decoder1(dec0, features.enc0))
        return logits

    def forward(self, image: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """Segment ``image`` (B, in_channels, H, W, D) under ``text`` (B, E) or (1, E), or under the default prompt."""
        return self.decode(self.encode(image), self.default_text if text is None else text)

    def _modulate(self, site: str, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Apply the block of ``site`` where the variant has one there."""
        return self.film[site](x, text) if site in self.film else x

    def _check_image(self, image: torch.Tensor) -> None:
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            return
        shape = tuple(image.shape)
        if image.ndim != 5 or shape[1] != self.in_channels:
            raise ValueError(f"The image must be (B, {self.in_channels}, H, W, D), not of shape {shape}.")
        multiple = self.patch_size**5
        if any(side % multiple for side in shape[2:]):
            raise ValueError(
                f"Every side of the image must be a multiple of {multiple}, not {shape[2:]}: "
                "pad it, or let a sliding window cut it (roi_size)."
            )

    def _check_text(self, text: torch.Tensor, *, batch: int) -> None:
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            return
        shape = tuple(text.shape)
        if text.ndim != 2 or shape[1] != self.text_dim:
            raise ValueError(
                f"Text must be (B, {self.text_dim}) or (1, {self.text_dim}), not of shape {shape}: these weights "
                f"belong to an encoder of dimension {self.text_dim}; encode strings first (custom.text)."
            )
        if shape[0] not in (1, batch):
            raise ValueError(f"Text must hold one vector, or one for each of the {batch} images, not {shape[0]}.")
