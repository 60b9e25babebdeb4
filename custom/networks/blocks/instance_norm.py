"""Instance normalisation whose statistics are of single precision, under bfloat16 on a CPU too."""

import torch
from torch import nn
from torch.nn.functional import instance_norm


def normalise_channels(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise each channel of x (B, C, H, W, D).

    On a CPU torch 2.13 rounds mean and deviation of bfloat16 maps to bfloat16, unless there is a weight in single
    precision. A channel of mean 1 and deviation 0.05 would be shifted by 0.07 deviations.
    """
    rounded = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    weight = torch.ones(x.shape[1]) if rounded else None
    return instance_norm(x, weight=weight, eps=eps)


class InstanceNorm3d(nn.InstanceNorm3d):
    """PyTorch's, without weights or running statistics."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x (B, C, H, W, D)."""
        return normalise_channels(x, self.eps)


def use_fp32_statistics(network: nn.Module) -> None:
    """Let the instance normalisations of a network of MONAI's compute as ``normalise_channels``; parameters stay."""
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d and not module.affine and not module.track_running_stats:
            module.__class__ = InstanceNorm3d
