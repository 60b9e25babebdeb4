"""Each volume of a batch is segmented under its own text; an encoded window serves every prompt."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from custom.inferers.simple import PromptedInferer
from custom.inferers.sliding_window import PromptedSlidingWindowInferer
from custom.inferers.windows import ABSENT
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.networks.swin_unetr import Features
from custom.utils.precision import autocast

ROI = (64, 32, 32)  # the smallest whose bottleneck can be normalised
CLASSES, TEXT_DIM = 4, 5


class Toy(nn.Module):
    """Encodes a window with its own mean, so that window positions matter; K affine maps of text."""

    default_text: torch.Tensor
    maps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("default_text", torch.randn(1, TEXT_DIM, generator=generator))
        self.register_buffer("maps", torch.randn(TEXT_DIM, CLASSES, generator=generator))
        self.encoded = 0

    def encode(self, image: torch.Tensor) -> Any:
        self.encoded += 1
        return image, image.mean(dim=(1, 2, 3, 4))

    def decode(
        self, features: Any, text: torch.Tensor | None = None, *, channels: Sequence[int] | None = None
    ) -> torch.Tensor:
        text = self.default_text if text is None else text
        image, mean = features
        per_class = (text @ self.maps).expand(image.shape[0], -1)[:, :, None, None, None]
        logits: torch.Tensor = image * per_class + mean[:, None, None, None, None]
        return logits.to(per_class.dtype) if channels is None else logits[:, list(channels)].to(per_class.dtype)

    def forward(self, image: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        return self.decode(self.encode(image), text)


class CountedSwin(FiLMSwinUNETR):
    """The real network, counting how often it encodes."""

    encoded = 0

    def encode(self, image: torch.Tensor) -> Features:
        self.encoded += 1
        return super().encode(image)


@pytest.fixture(scope="module")
def swin() -> CountedSwin:
    torch.manual_seed(0)
    network = CountedSwin(1, CLASSES, 12, TEXT_DIM, window_size=4)
    network.eval().requires_grad_(False)
    return network


def make(**options: Any) -> PromptedSlidingWindowInferer:
    return PromptedSlidingWindowInferer(ROI, **({"amp": False} | options))


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("windows", [1, 3])
def test_each_volume_of_a_batch_is_segmented_under_its_own_text(windows: int) -> None:
    images, texts = random(2, 1, 100, 40, 32), random(2, TEXT_DIM, seed=2)
    infer, network = make(sw_batch_size=windows), Toy()
    both = infer(images, network, texts)
    assert network.encoded == {1: 8, 3: 4}[windows]  # 2 x 2 windows a volume, in two rows of two
    assert both.shape == (2, CLASSES, 100, 40, 32)
    for index in (0, 1):
        own = slice(index, index + 1)
        torch.testing.assert_close(both[own], infer(images[own], network, texts[own]))
    assert not torch.allclose(both[:1], infer(images[:1], network, texts[1:]), atol=0.1)


def test_the_real_network_segments_each_volume_under_its_own_text(swin: CountedSwin) -> None:
    images, texts = random(2, 1, 96, 32, 32), random(2, TEXT_DIM, seed=2)
    infer = make(sw_batch_size=3)
    both = infer(images, swin, texts)
    for index in (0, 1):
        own = slice(index, index + 1)
        torch.testing.assert_close(both[own], infer(images[own], swin, texts[own]), atol=1e-4, rtol=1e-3)
    assert (both[:1] - infer(images[:1], swin, texts[1:])).abs().max() > 0.01


def test_named_channels_come_from_the_right_prompt() -> None:
    images, texts = random(2, 1, 100, 32, 32), random(2, 2, TEXT_DIM, seed=2)
    named = torch.zeros(2, 2, CLASSES, dtype=torch.bool)
    named[:, 0, 2] = named[:, 1, 0] = named[:, 1, 3] = True
    infer, network = make(sw_batch_size=3), Toy()
    logits = infer(images, network, texts, named)
    first, second = (infer(images, network, texts[:, prompt]) for prompt in (0, 1))
    assert not torch.allclose(first, second, atol=0.1)
    torch.testing.assert_close(logits, torch.stack([second[:, 0], first[:, 2], second[:, 3]], dim=1))


def test_each_prompt_encodes_a_window_once_and_gives_the_logits_of_separate_calls(swin: CountedSwin) -> None:
    image, texts = random(1, 1, 96, 32, 32), random(1, 3, TEXT_DIM, seed=2)
    separate = [make()(image, swin, texts[:, prompt]) for prompt in range(3)]
    for cache_gib, expected, tolerance in ((4.0, 2, 0.02), (0.0, 6, 1e-5)):
        swin.encoded = 0
        results = list(make(cache_gib=cache_gib).each_prompt(image, swin, texts))
        assert swin.encoded == expected
        torch.testing.assert_close(results, separate, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("windows_that_fit", "expected"), [(0, 9), (1, 7), (2, 5), (3, 3)])
def test_windows_beyond_the_cache_are_encoded_again(windows_that_fit: int, expected: int) -> None:
    image, texts, network = random(1, 1, 150, 32, 32), random(1, 3, TEXT_DIM, seed=2), Toy()
    size = 2 * (64 * 32 * 32 + 1)
    infer = make(cache_gib=(windows_that_fit + 0.5) * size / 2**30)
    results = list(infer.each_prompt(image, network, texts))
    assert network.encoded == expected
    separate = [infer(image, network, texts[:, prompt]) for prompt in range(3)]
    torch.testing.assert_close(results, separate, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("shape", [(100, 70, 40), (64, 40, 70), (30, 20, 10), (65, 33, 90)])
def test_windows_are_stitched_as_monai_does(shape: tuple[int, int, int], mode: str) -> None:
    image, text, network = random(1, 1, *shape), random(1, TEXT_DIM, seed=2), Toy()
    expected = sliding_window_inference(image, ROI, 1, lambda windows: network(windows, text), overlap=0.25, mode=mode)
    torch.testing.assert_close(make(mode=mode, skip_air=False)(image, network, text), expected)


def test_windows_of_air_are_skipped() -> None:
    image, text, network = torch.zeros(1, 1, 64, 32, 150), random(1, TEXT_DIM, seed=2), Toy()
    image[..., 140:] = 0.001  # half a HU above the window's lower end
    logits = make()(image, network, text)
    assert network.encoded == 2  # one for the number of channels, and the only one that is not air
    assert bool((logits[..., :100] == ABSENT).all())
    torch.testing.assert_close(logits[..., 130:], make(skip_air=False)(image, network, text)[..., 130:])


def test_only_named_channels_are_computed(swin: CountedSwin, monkeypatch: pytest.MonkeyPatch) -> None:
    image, texts = random(1, 1, 64, 32, 32), random(1, 2, TEXT_DIM, seed=2)
    named = torch.tensor([[[0, 0, 1, 0], [1, 0, 0, 1]]], dtype=torch.bool)
    computed: list[int] = []
    decode = swin.decode

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        logits = decode(*args, **kwargs)
        computed.append(logits.shape[1])
        return logits

    monkeypatch.setattr(swin, "decode", counted)
    logits = make()(image, swin, texts, named)
    assert computed == [1, 2]
    first, second = (make()(image, swin, texts[:, prompt]) for prompt in (0, 1))
    expected = torch.stack([second[:, 0], first[:, 2], second[:, 3]], 1)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-3)


class Crowded(Toy):
    """Runs out of memory, with torch's own error on a CPU, for batches of more than ``room`` windows."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.batches = room, list[int]()

    def encode(self, image: torch.Tensor) -> Any:
        if image.shape[0] > self.room:
            torch.empty(2**60)
        self.batches.append(image.shape[0])
        return super().encode(image)


def test_the_batch_of_windows_is_reduced_when_memory_is_short(caplog: pytest.LogCaptureFixture) -> None:
    image, text, network = random(1, 1, 250, 32, 32), random(1, TEXT_DIM, seed=2), Crowded(room=2)
    logits = make(sw_batch_size=8)(image, network, text)
    assert max(network.batches) <= 2 and sum(network.batches) >= 5
    assert "windows go together from here on" in caplog.text
    torch.testing.assert_close(logits, make()(image, Toy(), text))


def test_a_window_that_does_not_fit_in_memory_is_a_clear_error() -> None:
    with pytest.raises(MemoryError, match=r"memory for one window of 64 x 32 x 32 voxels on cpu"):
        make()(random(1, 1, 64, 32, 32), Crowded(room=0), random(1, TEXT_DIM, seed=2))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        make()(random(1, 1, 64, 32, 32), Toy(), random(1, TEXT_DIM + 1, seed=2))


def test_without_text_the_default_prompt_is_used() -> None:
    images, network = random(2, 1, 100, 32, 32), Toy()
    text = network.default_text.expand(2, -1)
    torch.testing.assert_close(make()(images, network), make()(images, network, text))
    torch.testing.assert_close(
        PromptedInferer(amp=False)(images, network), PromptedInferer(amp=False)(images, network, text)
    )


def test_a_volume_smaller_than_a_window_is_padded_with_zeros() -> None:
    image, text, network = random(1, 1, 30, 20, 10), random(1, TEXT_DIM, seed=2), Toy()
    padded = nn.functional.pad(image, (11, 11, 6, 6, 17, 17))
    expected = network(padded, text)[:, :, 17:47, 6:26, 11:21]
    torch.testing.assert_close(make()(image, network, text), expected)


@pytest.mark.parametrize("roi", [(64, 64), (64, 64, 48), (64, 64, 0), (64, 64, -32)])
def test_unsupported_window_sizes_are_refused(roi: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"three multiples of 32 voxels.*not \(64, 64"):
        PromptedSlidingWindowInferer(roi)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([[[1, 0, 0, 0]], [[0, 1, 0, 0]]], "same channels"),
        ([[[1, 0, 0, 0], [1, 1, 0, 0]]] * 2, "two prompts"),
    ],
)
def test_contradictory_prompts_are_refused(named: list[list[list[int]]], message: str) -> None:
    mask = torch.tensor(named, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        make()(random(2, 1, 64, 32, 32), Toy(), random(2, mask.shape[1], TEXT_DIM), mask)


@pytest.mark.parametrize(
    ("capabilities", "amp", "expected"),
    [
        ({}, True, False),
        ({"avx512_bf16": False, "amx_bf16": False}, True, False),
        ({"avx512_bf16": True}, True, True),
        ({"amx_bf16": True}, True, True),
        ({"avx512_bf16": True}, False, False),
    ],
)
def test_half_precision_only_where_the_machine_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], amp: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with autocast(torch.device("cpu"), amp=amp):
        assert torch.is_autocast_enabled("cpu") is expected
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == (torch.bfloat16 if expected else torch.float32)
    image, text, network = random(1, 1, 64, 32, 32), random(1, TEXT_DIM, seed=2), Toy()
    for infer in (make(amp=amp), PromptedInferer(amp=amp)):
        logits = infer(image, network, text)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, network(image, text), atol=0.1 if expected else 1e-5, rtol=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_on_a_gpu() -> None:
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    with autocast(torch.device("cuda"), amp=True):
        assert torch.is_autocast_enabled("cuda") is native


class Crowding(Toy):
    """Runs out of a GPU's memory once, at the second window."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = 0

    def encode(self, image: torch.Tensor) -> Any:
        self.windows += 1
        if self.windows == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().encode(image)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_logits_move_to_main_memory_when_gpu_memory_is_short(caplog: pytest.LogCaptureFixture) -> None:
    image, text = random(1, 1, 250, 32, 32).cuda(), random(1, TEXT_DIM, seed=2).cuda()
    logits = make(sw_batch_size=1)(image, Crowding().cuda(), text)
    assert "logits are summed in main memory" in caplog.text
    torch.testing.assert_close(logits, make()(image, Toy().cuda(), text))
