"""Sigmoid heads of many rare classes."""

import math
from collections.abc import Sequence

import torch
from monai.networks.blocks import UnetOutBlock
from torch import nn
from torch.nn.functional import conv3d


def init_foreground_prior(bias: torch.Tensor) -> None:
    """Set the bias of a sigmoid head in place, so that every class starts at a probability of 1 % in every voxel.

    Most voxels are background; starting at 0.5, hundreds of training steps would learn only that.

    Source: Lin et al., Focal Loss, arXiv:1708.02002, section 4.1.
    """
    nn.init.constant_(bias, math.log(0.01 / 0.99))


def select_channels(head: UnetOutBlock, decoded: torch.Tensor, channels: Sequence[int] | None) -> torch.Tensor:
    """Logits (B, K, H, W, D) of ``decoded`` (B, F, H, W, D): all, or the given channels (0-based, in that order)."""
    if channels is None:
        logits: torch.Tensor = head(decoded)
        return logits
    convolution = head.conv.conv
    return conv3d(decoded, convolution.weight[list(channels)], convolution.bias[list(channels)])
