"""How a head of many rare classes starts."""

import math

import torch
from torch import nn

#: Probability that an untrained head gives every voxel of every class.
FOREGROUND_PRIOR = 0.01


def start_rare(bias: torch.Tensor) -> None:
    """Set the bias of a sigmoid head so that it begins at ``FOREGROUND_PRIOR``.

    Most voxels are background: from even odds, hundreds of steps would go into learning only that.

    Source: Lin et al., Focal Loss, arXiv:1708.02002, section 4.1.

    Args:
        bias: of any shape; changed in place.
    """
    nn.init.constant_(bias, math.log(FOREGROUND_PRIOR / (1 - FOREGROUND_PRIOR)))
