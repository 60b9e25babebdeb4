"""A decoder block of MONAI's UNETR family, cut where the skip joins.

``UnetrUpBlock`` upsamples x, puts the skip s beside it and convolves both: conv(cat(up(x), s)). A convolution is linear
over channels, so that is conv_x(up(x)) + conv_s(s), each with its half of the weights. The second term depends on no
text: it is computed once per image, and nothing is put side by side in memory.
"""

from typing import NamedTuple

import torch
from monai.networks.blocks import UnetResBlock, UnetrUpBlock

from custom.networks.blocks.memory_efficient import convolve, convolve_upsampled, normalise


class SkipShare(NamedTuple):
    """The skip's share of both convolutions that read it, for a block with C output channels."""

    inner: torch.Tensor  # (B, C, H, W, D): of the first 3x3x3 convolution
    residual: torch.Tensor  # (B, C, H, W, D): of the 1x1x1 convolution of the residual


def project_skip(block: UnetrUpBlock, skip: torch.Tensor) -> SkipShare:
    """Compute the share of a skip (B, C, H, W, D), which is needed no more, in a block; the block is not changed."""
    inner, residual = _weights(block)
    channels = skip.shape[1]
    return SkipShare(convolve(skip, inner[:, -channels:]), convolve(skip, residual[:, -channels:], reuse=True))


def up_block(block: UnetrUpBlock, x: torch.Tensor, joined: SkipShare) -> torch.Tensor:
    """``block(x, skip)``, (B, C, 2H, 2W, 2D), from x (B, C', H, W, D) and ``project_skip(block, skip)``."""
    inner, residual = _weights(block)
    inside: UnetResBlock = block.conv_block
    up = block.transp_conv.conv.weight
    channels = up.shape[1]
    rest = convolve_upsampled(x, up, residual[:, :channels])
    rest += joined.residual
    rest = normalise(inside.norm3, rest)
    out = convolve_upsampled(x, up, inner[:, :channels])
    out += joined.inner
    out = inside.lrelu(normalise(inside.norm1, out))
    out = normalise(inside.norm2, convolve(out, inside.conv2.conv.weight, reuse=True))
    out += rest
    result: torch.Tensor = inside.lrelu(out)
    return result


def _weights(block: UnetrUpBlock) -> tuple[torch.Tensor, torch.Tensor]:
    return block.conv_block.conv1.conv.weight, block.conv_block.conv3.conv.weight
