"""Encoded windows are reused within a memory limit, never those of another image or network."""

from typing import Any

import pytest
import torch

from custom.inferers.feature_cache import FeatureCache
from custom.inferers.sliding_window import PromptedSlidingWindowInferer
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.networks.swin_unetr import Features

ROI, CLASSES, TEXT_DIM = (64, 32, 32), 4, 5


class Counted(FiLMSwinUNETR):
    """The real network, counting what it encodes."""

    encoded = high_res = 0

    def encode(self, image: torch.Tensor) -> Features:
        self.encoded += 1
        return super().encode(image)

    def encode_high_res(self, image: torch.Tensor) -> Any:
        self.high_res += 1
        return super().encode_high_res(image)


def make_network(seed: int = 0) -> Counted:
    torch.manual_seed(seed)
    network = Counted(1, CLASSES, 12, TEXT_DIM, window_size=4)
    network.eval().requires_grad_(False)
    return network


def volume(seed: int = 1, length: int = 96) -> torch.Tensor:
    return torch.rand((1, 1, 64, 32, length), generator=torch.Generator().manual_seed(seed))


def predict(
    image: torch.Tensor, network: Counted, cache: FeatureCache, seed: int = 2, *, amp: bool = False
) -> torch.Tensor:
    infer = PromptedSlidingWindowInferer(ROI, amp=amp)
    text = torch.randn((1, TEXT_DIM), generator=torch.Generator().manual_seed(seed))
    slabs = infer.slabs(image, network, [(text, None)], cache=cache, advance=lambda count: None)
    return torch.cat([slab.fresh.clone() for slab in slabs], dim=-1)


def test_the_second_prompt_on_an_image_skips_the_encoder() -> None:
    cache, network = FeatureCache(gib=1), make_network()
    predict(volume(), network, cache, seed=2)
    assert network.encoded == 4
    second = predict(volume(), network, cache, seed=3)  # equal voxels in another tensor
    assert network.encoded == 4
    torch.testing.assert_close(second, predict(volume(), network, FeatureCache(gib=0), seed=3), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("amp", [False, True])
def test_logits_do_not_depend_on_earlier_prompts(amp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("custom.utils.precision.computes_bfloat16", lambda device: True)  # emulated, if need be
    cache, network, image = FeatureCache(gib=1), make_network(), volume(length=32)  # one window: emulation is slow
    predict(image, network, cache, seed=2, amp=amp)
    second = predict(image, network, cache, seed=3, amp=amp)
    assert network.encoded == 1
    assert torch.equal(second, predict(image, network, FeatureCache(gib=1), seed=3, amp=amp))


def test_another_image_network_or_precision_reuses_nothing() -> None:
    cache, network = FeatureCache(gib=1), make_network()
    predict(volume(), network, cache)
    predict(volume(seed=9), network, cache)
    predict(volume(), network, cache, amp=True)
    assert network.encoded == 12
    other = make_network(seed=5)
    assert torch.equal(predict(volume(), other, cache), predict(volume(), other, FeatureCache(gib=1)))
    with torch.no_grad():
        network.get_parameter("encoder10.layer.conv1.conv.weight").mul_(0.5)
    assert torch.equal(predict(volume(), network, cache), predict(volume(), network, FeatureCache(gib=1)))


def bytes_of_a_window() -> int:
    return sum(tensor.numel() for tensor in make_network().encode(volume(length=32))) * 2


def test_a_volume_that_does_not_fit_keeps_its_low_resolution_features() -> None:
    limit = 3.5 * bytes_of_a_window()
    cache, network = FeatureCache(gib=limit / 2**30), make_network()
    first = predict(volume(), network, cache)
    assert cache.used < limit / 2
    assert network.high_res == 4
    assert torch.equal(predict(volume(), network, cache), first)
    assert network.encoded == 4 and network.high_res == 8


def test_the_limit_holds_and_the_least_recently_used_image_is_dropped() -> None:
    limit = 9.5 * bytes_of_a_window()  # two volumes
    cache, network = FeatureCache(gib=limit / 2**30), make_network()
    for seed in (1, 2, 1, 3):
        predict(volume(seed), network, cache)
        assert 0 < cache.used <= limit
    assert network.encoded == 12
    predict(volume(1), network, cache)
    assert network.encoded == 12
    predict(volume(2), network, cache)
    assert network.encoded == 16


def test_values_beyond_float16_are_not_rounded() -> None:
    cache, network = FeatureCache(gib=1), make_network()
    with torch.no_grad():
        network.get_parameter("decoder1.conv_block.conv3.conv.weight").mul_(1e6)
    predict(volume(), network, cache)
    assert bool(predict(volume(), network, cache).isfinite().all())


@pytest.mark.parametrize("gib", [-1, float("nan")])
def test_invalid_limits_are_refused(gib: float) -> None:
    with pytest.raises(ValueError, match="at least 0 GiB"):
        FeatureCache(gib=gib)
