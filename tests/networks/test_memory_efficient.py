"""Blocks that compute in chunks and in place agree with MONAI's."""

import copy

import pytest
import torch
from monai.networks.blocks import UnetResBlock, UnetrUpBlock
from monai.networks.nets.swin_unetr import PatchMerging, SwinTransformer, compute_mask
from monai.networks.nets.swin_unetr import WindowAttention as MonaiWindowAttention

from custom.networks.blocks.memory_efficient import (
    PLANES,
    WINDOWS,
    SwinStage,
    WindowAttention,
    convolve,
    residual_block,
    use_memory_efficient_blocks,
)
from custom.networks.blocks.up_block import project_skip, up_block

SIDES = (1, PLANES - 1, PLANES, PLANES + 1, 3 * PLANES)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution(side: int, kernel: int) -> None:
    x, weight = torch.randn(2, 3, side, 5, 6), torch.randn(3, 3, kernel, kernel, kernel)
    expected = torch.nn.functional.conv3d(x, weight, padding=kernel // 2)
    with torch.inference_mode():
        close(convolve(x.clone(), weight), expected)
        own = x.clone()
        close(convolve(own, weight, reuse=True), expected)
        assert not torch.equal(own, x)  # x was overwritten


@pytest.mark.parametrize(("channels", "norm"), [(1, "instance"), (4, "instance"), (4, ("group", {"num_groups": 2}))])
@pytest.mark.parametrize("side", SIDES[1:])
def test_residual_block(side: int, channels: int, norm: str | tuple[str, dict[str, int]]) -> None:
    block, x = UnetResBlock(3, channels, 4, 3, 1, norm).eval(), torch.randn(2, channels, side, 5, 6)
    expected = block(x)
    with torch.inference_mode():
        before = x.clone()
        close(residual_block(block, x), expected)
        assert torch.equal(x, before)


@pytest.mark.parametrize("side", [2, PLANES // 2, PLANES, 2 * PLANES + 2])
def test_up_block(side: int) -> None:
    block = UnetrUpBlock(3, 6, 4, 3, 2, "instance", res_block=True).eval()
    x, skip = torch.randn(2, 6, side, 4, 3), torch.randn(2, 4, 2 * side, 8, 6)
    expected = block(x, skip)
    close(up_block(block, x, project_skip(block, skip)), expected)
    with torch.inference_mode():
        close(up_block(block, x, project_skip(block, skip.clone())), expected)


@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_window_attention(shifted: bool, flash: bool) -> None:
    theirs = MonaiWindowAttention(8, 2, (3, 3, 3), qkv_bias=True, use_flash_attention=flash).eval()
    ours = WindowAttention(8, 2, (3, 3, 3), qkv_bias=True, use_flash_attention=flash).eval()
    ours.load_state_dict(theirs.state_dict())
    mask = compute_mask([12, 12, 9], (3, 3, 3), (1, 1, 1), "cpu") if shifted else None
    assert WINDOWS < 48  # windows of one image
    x = torch.randn(2 * 48, 27, 8)
    with torch.inference_mode():
        close(ours(x, mask), theirs(x, mask))


@pytest.mark.parametrize("size", [(24, 16, 16), (6, 26, 9), (2, 4, 30)])
def test_swin_transformer(size: tuple[int, int, int]) -> None:
    sizes = {
        "in_chans": 1,
        "embed_dim": 6,
        "window_size": (4, 4, 4),
        "patch_size": (2, 2, 2),
        "num_heads": (1, 1, 2, 2),
    }
    theirs = SwinTransformer(**sizes, depths=(2, 2, 2, 2), use_flash_attention=True, downsample=PatchMerging).eval()
    ours = copy.deepcopy(theirs)
    use_memory_efficient_blocks(ours)
    assert sum(isinstance(module, (WindowAttention, SwinStage)) for module in ours.modules()) == 4 * 3
    x = torch.randn(2, 1, *(2 * side for side in size))
    with torch.inference_mode():
        for one, other in zip(ours(x), theirs(x), strict=True):
            close(one, other)


def test_training_computes_as_monai_does() -> None:
    block = UnetrUpBlock(3, 6, 4, 3, 2, "instance", res_block=True)
    x, skip = torch.randn(1, 6, 4, 4, 4), torch.randn(1, 4, 8, 8, 8)
    up_block(block, x, project_skip(block, skip)).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in block.parameters())
