"""Encoded windows are found again, within a limit, and never those of another image or network."""

from typing import Any

import pytest
import torch

from custom.inferers.feature_cache import FeatureCache
from custom.inferers.sliding_window import PromptedSlidingWindowInferer
from custom.inferers.window_predictor import PromptQuery
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.networks.swin_unetr import Features

ROI, CLASSES, TEXT_DIM = (64, 32, 32), 4, 5


class Counted(FiLMSwinUNETR):
    """The real network, counting what it encodes."""

    whole = fine = 0

    def encode(self, image: torch.Tensor) -> Features:
        self.whole += 1
        return super().encode(image)

    def encode_high_res(self, image: torch.Tensor) -> Any:
        self.fine += 1
        return super().encode_high_res(image)


def make_network(seed: int = 0) -> Counted:
    torch.manual_seed(seed)
    network = Counted(1, CLASSES, 12, TEXT_DIM, window_size=4)
    network.eval().requires_grad_(False)
    return network


def volume(seed: int = 1, length: int = 96) -> torch.Tensor:
    return torch.rand((1, 1, 64, 32, length), generator=torch.Generator().manual_seed(seed))


def ask(
    image: torch.Tensor, network: Counted, cache: FeatureCache, seed: int = 2, *, amp: bool = False
) -> torch.Tensor:
    infer = PromptedSlidingWindowInferer(ROI, amp=amp)
    text = torch.randn((1, TEXT_DIM), generator=torch.Generator().manual_seed(seed))
    slabs = infer.slabs(image, network, PromptQuery(text), cache=cache, advance=lambda count: None)
    return torch.cat([slab.fresh.clone() for slab in slabs], dim=-1)


def test_the_second_prompt_on_an_image_skips_the_encoder() -> None:
    cache, network = FeatureCache(gib=1), make_network()
    ask(volume(), network, cache, seed=2)
    assert network.whole == 4
    second = ask(volume(), network, cache, seed=3)  # equal voxels in another tensor
    assert network.whole == 4
    torch.testing.assert_close(second, ask(volume(), network, FeatureCache(gib=0), seed=3), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("amp", [False, True])
def test_an_answer_does_not_depend_on_what_was_asked_before(amp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("custom.utils.precision.computes_bfloat16", lambda device: True)  # emulated, if need be
    cache, network = FeatureCache(gib=1), make_network()
    ask(volume(), network, cache, seed=2, amp=amp)
    second = ask(volume(), network, cache, seed=3, amp=amp)
    assert network.whole == 4
    assert torch.equal(second, ask(volume(), network, FeatureCache(gib=1), seed=3, amp=amp))


def test_another_image_network_or_precision_finds_nothing() -> None:
    cache, network = FeatureCache(gib=1), make_network()
    ask(volume(), network, cache)
    ask(volume(seed=9), network, cache)
    ask(volume(), network, cache, amp=True)
    assert network.whole == 12
    other = make_network(seed=5)
    assert torch.equal(ask(volume(), other, cache), ask(volume(), other, FeatureCache(gib=1)))
    with torch.no_grad():
        network.get_parameter("encoder10.layer.conv1.conv.weight").mul_(0.5)
    assert torch.equal(ask(volume(), network, cache), ask(volume(), network, FeatureCache(gib=1)))


def bytes_of_a_window() -> int:
    return sum(tensor.numel() for tensor in make_network().encode(volume(length=32))) * 2


def test_a_volume_that_does_not_fit_keeps_what_is_costly() -> None:
    limit = 3.5 * bytes_of_a_window()
    cache, network = FeatureCache(gib=limit / 2**30), make_network()
    first = ask(volume(), network, cache)
    assert cache.used < limit / 2
    assert network.fine == 4
    assert torch.equal(ask(volume(), network, cache), first)
    assert network.whole == 4 and network.fine == 8


def test_the_limit_holds_and_the_image_asked_longest_ago_goes() -> None:
    limit = 9.5 * bytes_of_a_window()  # two volumes
    cache, network = FeatureCache(gib=limit / 2**30), make_network()
    for seed in (1, 2, 1, 3):
        ask(volume(seed), network, cache)
        assert 0 < cache.used <= limit
    assert network.whole == 12
    ask(volume(1), network, cache)
    assert network.whole == 12
    ask(volume(2), network, cache)
    assert network.whole == 16


def test_values_beyond_half_precision_are_kept_as_they_are() -> None:
    cache, network = FeatureCache(gib=1), make_network()
    with torch.no_grad():
        network.get_parameter("decoder1.conv_block.conv3.conv.weight").mul_(1e6)
    ask(volume(), network, cache)
    assert bool(ask(volume(), network, cache).isfinite().all())


@pytest.mark.parametrize("gib", [-1, float("nan")])
def test_a_limit_that_is_none_is_refused(gib: float) -> None:
    with pytest.raises(ValueError, match="at least 0 GiB"):
        FeatureCache(gib=gib)
