"""Instance normalisation with float32 statistics, also under bfloat16 on a CPU."""

import torch
from torch import nn
from torch.nn.functional import instance_norm


def normalise_channels(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise each channel of x (B, C, H, W, D).

    On a CPU, torch 2.13 rounds the mean and standard deviation of bfloat16 maps to bfloat16 unless a float32 weight is
    given: a channel of mean 1 and deviation 0.05 would be shifted by 0.07 deviations.
    """
    needs_weight = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    return instance_norm(x, weight=torch.ones(x.shape[1]) if needs_weight else None, eps=eps)


class InstanceNorm3d(nn.InstanceNorm3d):
    """PyTorch's layer without weights or running statistics, through ``normalise_channels``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x (B, C, H, W, D)."""
        return normalise_channels(x, self.eps)


def use_fp32_statistics(network: nn.Module) -> None:
    """Replace a network's instance normalisations without weights or running statistics by ``InstanceNorm3d``."""
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d and not module.affine and not module.track_running_stats:
            module.__class__ = InstanceNorm3d
