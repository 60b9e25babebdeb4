"""The head of many rare classes: how it starts, and how a few of its channels are read."""

import math
from collections.abc import Sequence

import torch
from monai.networks.blocks import UnetOutBlock
from torch import nn
from torch.nn.functional import conv3d

#: Probability that an untrained head gives every voxel of every class.
FOREGROUND_PRIOR = 0.01


def init_foreground_prior(bias: torch.Tensor) -> None:
    """Set the bias of a sigmoid head so that it begins at ``FOREGROUND_PRIOR``.

    Most voxels are background: from even odds, hundreds of steps would go into learning only that.

    Source: Lin et al., Focal Loss, arXiv:1708.02002, section 4.1.

    Args:
        bias: of any shape; changed in place.
    """
    nn.init.constant_(bias, math.log(FOREGROUND_PRIOR / (1 - FOREGROUND_PRIOR)))


def select_channels(head: UnetOutBlock, decoded: torch.Tensor, channels: Sequence[int] | None) -> torch.Tensor:
    """Logits (B, K, H, W, D) of ``decoded`` (B, F, H, W, D): of some channels (0-based), in that order, or of all."""
    if channels is None:
        every: torch.Tensor = head(decoded)
        return every
    convolution = head.conv.conv
    return conv3d(decoded, convolution.weight[list(channels)], convolution.bias[list(channels)])
