"""The decoder block of MONAI's UNETR family with the skip's contribution computed separately.

``UnetrUpBlock`` upsamples x, concatenates the skip s and convolves both: conv(cat(up(x), s)). Convolution is linear in
its input channels, so this is conv_x(up(x)) + conv_s(s), each with its part of the weights. The second term does not
depend on text: it is computed once per image, and the concatenation is never held in memory.
"""

import torch
from monai.networks.blocks import UnetResBlock, UnetrUpBlock

from custom.networks.blocks.memory_efficient import convolve, convolve_upsampled, normalise


def project_skip(block: UnetrUpBlock, skip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the contribution of a skip (B, C, H, W, D), which may be overwritten, to a block.

    Returns:
        (B, C, H, W, D) to the first 3x3x3 convolution, and to the 1x1x1 convolution of the residual connection.
    """
    inner, residual = block.conv_block.conv1.conv.weight, block.conv_block.conv3.conv.weight
    channels = skip.shape[1]
    return convolve(skip, inner[:, -channels:]), convolve(skip, residual[:, -channels:], reuse=True)


def up_block(block: UnetrUpBlock, x: torch.Tensor, skip: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """``block(x, s)``, (B, C, 2H, 2W, 2D), from x (B, C', H, W, D) and ``skip = project_skip(block, s)``."""
    layers: UnetResBlock = block.conv_block
    inner, residual = layers.conv1.conv.weight, layers.conv3.conv.weight
    up = block.transp_conv.conv.weight
    channels = up.shape[1]
    shortcut = convolve_upsampled(x, up, residual[:, :channels])
    shortcut += skip[1]
    shortcut = normalise(layers.norm3, shortcut)
    out = convolve_upsampled(x, up, inner[:, :channels])
    out += skip[0]
    out = layers.lrelu(normalise(layers.norm1, out))
    out = normalise(layers.norm2, convolve(out, layers.conv2.conv.weight, reuse=True))
    out += shortcut
    result: torch.Tensor = layers.lrelu(out)
    return result
