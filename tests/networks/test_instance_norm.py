"""Instance normalisation computes its statistics in float32."""

import pytest
import torch
from torch import nn

from custom.networks.blocks.instance_norm import InstanceNorm3d, use_fp32_statistics
from custom.networks.film_swin_unetr import FiLMSwinUNETR


@pytest.mark.parametrize("mean", [0.0, 0.1, 1.0035])
def test_bfloat16_maps_are_normalised_by_their_own_mean_and_deviation(mean: float) -> None:
    x = (torch.randn(1, 4, 48, 48, 48, generator=torch.Generator().manual_seed(0)) * 0.05 + mean).bfloat16()
    norm = nn.Sequential(nn.InstanceNorm3d(4))
    use_fp32_statistics(norm)
    found = norm(x)
    assert found.dtype == torch.bfloat16
    exact = nn.InstanceNorm3d(4)(x.float())
    assert (found.float() - exact).mean((2, 3, 4)).abs().max() < 2e-3
    assert (found.float().std((2, 3, 4)) / exact.std((2, 3, 4)) - 1).abs().max() < 1e-3


def test_float32_is_unchanged_and_every_layer_is_replaced() -> None:
    x = torch.randn(2, 3, 5, 6, 7)
    assert torch.equal(InstanceNorm3d(3)(x), nn.InstanceNorm3d(3)(x))
    network = FiLMSwinUNETR(1, 2, 12, 4)
    assert not any(type(module) is nn.InstanceNorm3d for module in network.modules())


def test_layers_with_weights_or_running_statistics_are_not_replaced() -> None:
    norms = nn.ModuleList([nn.InstanceNorm3d(3, affine=True), nn.InstanceNorm3d(3, track_running_stats=True)])
    use_fp32_statistics(norms)
    assert [type(norm) for norm in norms] == [nn.InstanceNorm3d] * 2
