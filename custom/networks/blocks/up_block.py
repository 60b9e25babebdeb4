"""The decoder block of MONAI's UNETR family with the skip's contribution computed separately.

``UnetrUpBlock`` upsamples x, concatenates the skip s and convolves both: conv(cat(up(x), s)). Convolution is linear in
its input channels, so this is conv_x(up(x)) + conv_s(s), each with its part of the weights. The second term does not
depend on text: it is computed once per image, and the concatenation is never held in memory.
"""

from typing import NamedTuple

import torch
from monai.networks.blocks import UnetResBlock, UnetrUpBlock

from custom.networks.blocks.memory_efficient import convolve, convolve_upsampled, normalise


class SkipShare(NamedTuple):
    """The skip's contribution to the two convolutions of a block with C output channels, (B, C, H, W, D) each."""

    inner: torch.Tensor  # to the first 3x3x3 convolution
    residual: torch.Tensor  # to the 1x1x1 convolution of the residual connection


def project_skip(block: UnetrUpBlock, skip: torch.Tensor) -> SkipShare:
    """Compute the contribution of a skip (B, C, H, W, D), which may be overwritten, to a block."""
    inner, residual = _weights(block)
    channels = skip.shape[1]
    return SkipShare(convolve(skip, inner[:, -channels:]), convolve(skip, residual[:, -channels:], reuse=True))


def up_block(block: UnetrUpBlock, x: torch.Tensor, skip: SkipShare) -> torch.Tensor:
    """``block(x, s)``, (B, C, 2H, 2W, 2D), from x (B, C', H, W, D) and ``skip = project_skip(block, s)``."""
    inner, residual = _weights(block)
    layers: UnetResBlock = block.conv_block
    up = block.transp_conv.conv.weight
    channels = up.shape[1]
    shortcut = convolve_upsampled(x, up, residual[:, :channels])
    shortcut += skip.residual
    shortcut = normalise(layers.norm3, shortcut)
    out = convolve_upsampled(x, up, inner[:, :channels])
    out += skip.inner
    out = layers.lrelu(normalise(layers.norm1, out))
    out = normalise(layers.norm2, convolve(out, layers.conv2.conv.weight, reuse=True))
    out += shortcut
    result: torch.Tensor = layers.lrelu(out)
    return result


def _weights(block: UnetrUpBlock) -> tuple[torch.Tensor, torch.Tensor]:
    return block.conv_block.conv1.conv.weight, block.conv_block.conv3.conv.weight
