"""The arithmetic of MONAI's blocks in less memory and time, for answering on a CPU: in pieces, and in place where safe.

In training, on a GPU and while tracing, everything is computed as MONAI does.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import UnetResBlock
from monai.networks.nets import swin_unetr as monai
from torch import nn
from torch.nn.functional import conv3d, conv_transpose3d, pad

from custom.networks.blocks.instance_norm import InstanceNorm3d, normalise_channels

#: Planes that are convolved at once: the library's own copies are as large as what it is given.
PLANES = 12

#: Channels that are normalised at once.
CHANNELS = 8

#: Windows that attend at once: the bias of the 343 windows of a 96x96x96 image together takes half a gigabyte.
WINDOWS = 32


def is_memory_efficient(x: torch.Tensor) -> bool:
    """Whether memory can be saved where x is: on a CPU, when not training."""
    tracing = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined,no-untyped-call]
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not tracing


def convolve(x: torch.Tensor, weight: torch.Tensor, *, reuse: bool = False) -> torch.Tensor:
    """Convolve x (B, C, H, W, D) with a kernel of odd side, keeping the size.

    With ``reuse``, x is needed no more: the result may take its place.
    """
    reach, planes = weight.shape[-1] // 2, x.shape[2]
    if not is_memory_efficient(x):
        return conv3d(x, weight, padding=reach)
    result: torch.Tensor | None = None
    behind = x.new_zeros(*x.shape[:2], reach, *x.shape[3:])
    for start in range(0, planes, PLANES):
        stop = min(start + PLANES, planes)
        ahead = x[:, :, stop : stop + reach]
        part = pad(torch.cat([behind, x[:, :, start:stop], ahead], 2), (0, 0, 0, 0, 0, reach - ahead.shape[2]))
        behind = x[:, :, stop - reach : stop].clone()
        done = conv3d(part, weight, padding=(0, reach, reach))
        if result is None:
            fits = reuse and done.dtype == x.dtype and done.shape[1] == x.shape[1]
            result = x if fits else done.new_empty(*done.shape[:2], *x.shape[2:])
        result[:, :, start:stop] = done
    assert result is not None  # there is a plane
    return result


def convolve_upsampled(x: torch.Tensor, up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Upsample x (B, C, H, W, D) twofold and convolve the result, of which nothing is made on a CPU.

    Both are linear. A voxel of the fine grid has a neighbourhood of 3x3x3, but these lie in 2x2x2 voxels of the coarse
    grid: which, and with which weights, depends on whether its indices are even or odd. That makes eight convolutions
    of the coarse grid with kernels of 2x2x2, a third of the multiplications.

    Args:
        x: coarse.
        up: (C, M, 2, 2, 2), the kernel of a transposed convolution with stride 2.
        weight: (O, M, k, k, k) with k 1 or 3, the kernel of a convolution that keeps the size.

    Returns:
        (B, O, 2H, 2W, 2D).
    """
    reach = weight.shape[-1] // 2
    if not is_memory_efficient(x):
        return conv3d(conv_transpose3d(x, up, stride=2), weight, padding=reach)
    padded = pad(x, (reach,) * 6)
    outer, inner = weight.permute(2, 3, 4, 0, 1).contiguous(), up.permute(2, 3, 4, 1, 0).contiguous()
    result: torch.Tensor | None = None
    for parity in itertools.product((0, 1), repeat=3):
        first = [reach * odd for odd in parity]  # of the coarse voxels in reach, in ``padded``
        kernel = weight.new_zeros(*(1 + reach,) * 3, weight.shape[0], x.shape[1])
        for taps in itertools.product(range(-reach, reach + 1), repeat=3):
            fine = [odd + tap for odd, tap in zip(parity, taps, strict=True)]
            coarse = [place // 2 + reach - start for place, start in zip(fine, first, strict=True)]
            with torch.autocast(x.device.type, enabled=False):
                kernel[tuple(coarse)] += outer[tuple(tap + reach for tap in taps)] @ inner[tuple(p % 2 for p in fine)]
        window: list[Any] = [slice(start, start + side + reach) for start, side in zip(first, x.shape[2:], strict=True)]
        done = conv3d(padded[(..., *window)], kernel.permute(3, 4, 0, 1, 2))
        if result is None:
            result = done.new_empty(*done.shape[:2], *(2 * side for side in x.shape[2:]))
        every: list[Any] = [slice(odd, None, 2) for odd in parity]
        result[(..., *every)] = done
    assert result is not None  # there are eight
    return result


def normalise(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Normalise x (B, C, H, W, D), which is needed no more."""
    if not is_memory_efficient(x) or not isinstance(norm, InstanceNorm3d):
        result: torch.Tensor = norm(x)
        return result
    for channels in torch.split(x, CHANNELS, dim=1):
        channels.copy_(normalise_channels(channels, norm.eps))
    return x


def residual_block(block: UnetResBlock, x: torch.Tensor) -> torch.Tensor:
    """What ``block(x)`` returns, of x (B, C, H, W, D), for a block that keeps the size."""
    if not is_memory_efficient(x):
        whole: torch.Tensor = block(x)
        return whole
    out = block.lrelu(normalise(block.norm1, convolve(x, block.conv1.conv.weight)))
    out = normalise(block.norm2, convolve(out, block.conv2.conv.weight, reuse=True))
    out += normalise(block.norm3, convolve(x, block.conv3.conv.weight)) if block.downsample else x
    result: torch.Tensor = block.lrelu(out)
    return result


class WindowAttention(monai.WindowAttention):
    """MONAI's WindowAttention, a few windows at a time."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Attend within windows x (B * n, tokens, C).

        Args:
            x: the n windows of each of B images.
            mask: (n, tokens, tokens), added to the attention. Where memory is saved also (n, tokens), the region of
                each token, which sees its own region only.
        """
        if not is_memory_efficient(x):
            whole: torch.Tensor = super().forward(x, mask)
            return whole
        result = torch.empty_like(x)
        together = x.shape[0] if mask is None else mask.shape[0]
        for image in range(0, x.shape[0], together):
            for start in range(0, together, WINDOWS):
                part = slice(image + start, image + min(start + WINDOWS, together))
                own = None if mask is None else mask[start : start + WINDOWS]
                if own is not None and own.ndim == 2:
                    own = (own[:, None] != own[:, :, None]) * -100.0
                result[part] = super().forward(x[part], own)
        return result


class SwinStage(monai.BasicLayer):
    """MONAI's BasicLayer, in which the mask of shifted windows (half a gigabyte while it is made) is never whole."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (B, 2C, H/2, W/2, D/2) of x (B, C, H, W, D); without a downsampling, of the size of x."""
        if not is_memory_efficient(x) or self.use_hyena:
            whole: torch.Tensor = super().forward(x)
            return whole
        window, shift = monai.get_window_size(x.shape[2:], self.window_size, self.shift_size)
        regions = _regions(x.shape[2:], window, shift)
        x = x.movedim(1, -1)
        for block in self.blocks:
            x = block(x, regions)
        if self.downsample is not None:
            x = self.downsample(x)
        return x.movedim(-1, 1)


def _regions(size: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> torch.Tensor:
    """Regions (n, tokens) of the windows of a shifted image: what has come from its other end is another region."""
    regions = torch.zeros(())
    for side, width, by in zip(size, window, shift, strict=True):
        side = -(-side // width) * width  # as padded
        place = torch.arange(side)
        own = (place >= side - width).float() + (place >= side - by)
        regions = 3 * regions[..., None] + own
    windows: torch.Tensor = monai.window_partition(regions[None, ..., None], window)
    return windows[..., 0]


def use_memory_efficient_blocks(swin: nn.Module) -> None:
    """Let a Swin transformer of MONAI's compute as ``SwinStage`` and ``WindowAttention`` do; parameters stay."""
    ours: dict[type[nn.Module], type[nn.Module]] = {monai.WindowAttention: WindowAttention, monai.BasicLayer: SwinStage}
    for module in swin.modules():
        module.__class__ = ours.get(type(module), type(module))
