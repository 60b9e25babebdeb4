"""A decoder block of MONAI's UNETR family, cut where the skip joins.

``UnetrUpBlock`` upsamples x, puts the skip s beside it and convolves both: conv(cat(up(x), s)). A convolution is linear
over channels, so that is conv_x(up(x)) + conv_s(s), each with its half of the weights. The second term depends on no
text: it is computed once per image, and nothing is put side by side in memory.
"""

from typing import NamedTuple

import torch
from monai.networks.blocks import UnetResBlock, UnetrUpBlock
from torch.nn.functional import conv3d, pad

#: Planes that are convolved at once on a CPU: the library's own copies are as large as what it is given.
PLANES = 12


class Joined(NamedTuple):
    """The skip's share of both convolutions that read it, for a block with C output channels."""

    inner: torch.Tensor  # (B, C, H, W, D): of the first 3x3x3 convolution
    residual: torch.Tensor  # (B, C, H, W, D): of the 1x1x1 convolution of the residual


def join_skip(block: UnetrUpBlock, skip: torch.Tensor) -> Joined:
    """Compute the share of a skip (B, C, H, W, D) in a block; the block is not changed."""
    inner, residual = _weights(block)
    channels = skip.shape[1]
    return Joined(_convolve(skip, inner[:, -channels:]), _convolve(skip, residual[:, -channels:]))


def up_block(block: UnetrUpBlock, x: torch.Tensor, joined: Joined) -> torch.Tensor:
    """What ``block(x, skip)`` returns, (B, C, 2H, 2W, 2D), from x (B, C', H, W, D) and ``join_skip(block, skip)``."""
    inner, residual = _weights(block)
    convolve: UnetResBlock = block.conv_block
    up = block.transp_conv(x)
    channels = up.shape[1]
    rest = _convolve(up, residual[:, :channels])
    rest += joined.residual
    rest = convolve.norm3(rest)
    out = _convolve(up, inner[:, :channels])
    del up
    out += joined.inner
    out = convolve.lrelu(convolve.norm1(out))
    out = convolve.norm2(_convolve(out, convolve.conv2.conv.weight))
    out += rest
    result: torch.Tensor = convolve.lrelu(out)
    return result


def _weights(block: UnetrUpBlock) -> tuple[torch.Tensor, torch.Tensor]:
    return block.conv_block.conv1.conv.weight, block.conv_block.conv3.conv.weight


def _is_frugal(x: torch.Tensor) -> bool:
    """Whether memory can be saved by convolving in pieces: on a CPU, when not training."""
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not tracing


def _convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A convolution with a kernel of odd side that keeps the size."""
    reach = weight.shape[-1] // 2
    if not _is_frugal(x) or x.shape[2] <= PLANES:
        return conv3d(x, weight, padding=reach)
    planes = x.shape[2]
    result: torch.Tensor | None = None
    for start in range(0, planes, PLANES):
        stop = min(start + PLANES, planes)
        part = x[:, :, max(start - reach, 0) : stop + reach]
        before, after = max(reach - start, 0), max(stop + reach - planes, 0)
        if before or after:
            part = pad(part, (0, 0, 0, 0, before, after))
        done = conv3d(part, weight, padding=(0, reach, reach))
        if result is None:
            result = done.new_empty(*done.shape[:2], *x.shape[2:])
        result[:, :, start:stop] = done
    assert result is not None  # there is a plane
    return result
