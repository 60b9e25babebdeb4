"""MONAI's blocks in less memory and time for inference on a CPU: computed in chunks, and in place where safe.

In training, on a GPU and while tracing, MONAI's own code runs.
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

#: Planes per convolution: the library makes copies as large as its input.
PLANES = 12

#: Channels per normalisation.
CHANNELS = 8

#: Attention windows at once: the bias of all 343 windows of a 96x96x96 image takes half a gigabyte.
WINDOWS = 32


def is_memory_efficient(x: torch.Tensor) -> bool:
    """Whether to save memory on x: on a CPU, outside training and tracing."""
    tracing = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined,no-untyped-call]
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not tracing


def convolve(x: torch.Tensor, weight: torch.Tensor, *, reuse: bool = False) -> torch.Tensor:
    """Convolve x (B, C, H, W, D) with a kernel of odd side, keeping the size; with ``reuse``, x may be overwritten."""
    margin, planes = weight.shape[-1] // 2, x.shape[2]
    if not is_memory_efficient(x):
        return conv3d(x, weight, padding=margin)
    result = x
    before = x.new_zeros(*x.shape[:2], margin, *x.shape[3:])
    for start in range(0, planes, PLANES):
        stop = min(start + PLANES, planes)
        after = x[:, :, stop : stop + margin]
        chunk = pad(torch.cat([before, x[:, :, start:stop], after], 2), (0, 0, 0, 0, 0, margin - after.shape[2]))
        before = x[:, :, stop - margin : stop].clone()
        convolved = conv3d(chunk, weight, padding=(0, margin, margin))
        if start == 0 and not (reuse and convolved.dtype == x.dtype and convolved.shape[1] == x.shape[1]):
            result = convolved.new_empty(*convolved.shape[:2], *x.shape[2:])
        result[:, :, start:stop] = convolved
    return result


def convolve_upsampled(x: torch.Tensor, up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Upsample x (B, C, H, W, D) twofold and convolve, on a CPU without computing the upsampled map.

    Both steps are linear. The 3x3x3 neighbourhood of a fine voxel lies in 2x2x2 coarse voxels; which ones, and with
    which weights, depends on whether its indices are even or odd. That gives eight convolutions of the coarse map with
    2x2x2 kernels, a third of the multiplications.

    ``up`` (C, M, 2, 2, 2) is the kernel of a transposed convolution with stride 2, ``weight`` (O, M, k, k, k) that of a
    convolution that keeps the size, with k 1 or 3. The result is (B, O, 2H, 2W, 2D).
    """
    margin, size = weight.shape[-1] // 2, x.shape[2:]
    if not is_memory_efficient(x):
        return conv3d(conv_transpose3d(x, up, stride=2), weight, padding=margin)
    padded = pad(x, (margin,) * 6)
    outer, inner = weight.permute(2, 3, 4, 0, 1).contiguous(), up.permute(2, 3, 4, 1, 0).contiguous()
    result = x
    for parity in itertools.product((0, 1), repeat=3):
        first = [margin * odd for odd in parity]  # coarse voxel of the neighbourhood, in ``padded``
        kernel = weight.new_zeros(*(1 + margin,) * 3, weight.shape[0], x.shape[1])
        for taps in itertools.product(range(-margin, margin + 1), repeat=3):
            fine = [odd + tap for odd, tap in zip(parity, taps, strict=True)]
            coarse = [index // 2 + margin - start for index, start in zip(fine, first, strict=True)]
            with torch.autocast(x.device.type, enabled=False):
                kernel[tuple(coarse)] += outer[tuple(tap + margin for tap in taps)] @ inner[tuple(i % 2 for i in fine)]
        region: list[Any] = [slice(start, start + side + margin) for start, side in zip(first, size, strict=True)]
        convolved = conv3d(padded[(..., *region)], kernel.permute(3, 4, 0, 1, 2))
        if result is x:
            result = convolved.new_empty(*convolved.shape[:2], *(2 * side for side in size))
        every_second: list[Any] = [slice(odd, None, 2) for odd in parity]
        result[(..., *every_second)] = convolved
    return result


def normalise(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Normalise x (B, C, H, W, D), which may be overwritten."""
    if is_memory_efficient(x) and isinstance(norm, InstanceNorm3d):
        for channels in torch.split(x, CHANNELS, dim=1):
            channels.copy_(normalise_channels(channels, norm.eps))
    else:
        x = norm(x)
    return x


def residual_block(block: UnetResBlock, x: torch.Tensor) -> torch.Tensor:
    """``block(x)`` of x (B, C, H, W, D), for a block that keeps the size."""
    if not is_memory_efficient(x):
        x = block(x)
        return x
    out = block.lrelu(normalise(block.norm1, convolve(x, block.conv1.conv.weight)))
    out = normalise(block.norm2, convolve(out, block.conv2.conv.weight, reuse=True))
    out += normalise(block.norm3, convolve(x, block.conv3.conv.weight)) if block.downsample else x
    result: torch.Tensor = block.lrelu(out)
    return result


class WindowAttention(monai.WindowAttention):
    """MONAI's WindowAttention, ``WINDOWS`` windows at a time."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Attend within x (B * n, tokens, C), the n windows of each of B images.

        ``mask`` (n, tokens, tokens) is added to the attention. Where memory is saved, it may be (n, tokens): the region
        of each token, to which its attention is limited.
        """
        if not is_memory_efficient(x):
            attended: torch.Tensor = super().forward(x, mask)
            return attended
        result = torch.empty_like(x)
        per_image = x.shape[0] if mask is None else mask.shape[0]
        for image in range(0, x.shape[0], per_image):
            for start in range(0, per_image, WINDOWS):
                windows = slice(image + start, image + min(start + WINDOWS, per_image))
                bias = None if mask is None else mask[start : start + WINDOWS]
                if bias is not None and bias.ndim == 2:
                    bias = (bias[:, None] != bias[:, :, None]) * -100.0
                result[windows] = super().forward(x[windows], bias)
        return result


class SwinStage(monai.BasicLayer):
    """MONAI's BasicLayer without the full mask of shifted windows, which would take half a gigabyte."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (B, 2C, H/2, W/2, D/2) of x (B, C, H, W, D); of the size of x if there is no downsampling."""
        if not is_memory_efficient(x) or self.use_hyena:
            features: torch.Tensor = super().forward(x)
            return features
        window, shift = monai.get_window_size(x.shape[2:], self.window_size, self.shift_size)
        regions = _regions(x.shape[2:], window, shift)
        x = x.movedim(1, -1)
        for block in self.blocks:
            x = block(x, regions)
        if self.downsample is not None:
            x = self.downsample(x)
        return x.movedim(-1, 1)


def _regions(size: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> torch.Tensor:
    """Region of each token (n, tokens) in the n windows of a shifted image, as in MONAI's ``compute_mask``."""
    regions = torch.zeros(())
    for side, width, by in zip(size, window, shift, strict=True):
        side = -(-side // width) * width  # padded
        index = torch.arange(side)
        regions = 3 * regions[..., None] + (index >= side - width).float() + (index >= side - by)
    windows: torch.Tensor = monai.window_partition(regions[None, ..., None], window)
    return windows[..., 0]


def use_memory_efficient_blocks(swin: nn.Module) -> None:
    """Replace the stages and attentions of MONAI's Swin transformer by ``SwinStage`` and ``WindowAttention``."""
    replacements: dict[type, type] = {monai.WindowAttention: WindowAttention, monai.BasicLayer: SwinStage}
    for module in swin.modules():
        module.__class__ = replacements.get(type(module), type(module))
