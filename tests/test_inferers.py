"""Windows of several volumes meet their own texts; an encoded window serves every prompt."""

from typing import Any

import pytest
import torch
from torch import nn

from custom.inferers import PromptedInferer, PromptedSlidingWindowInferer, autocast
from custom.networks import Features, FiLMSwinUNETR

ROI = (64, 32, 32)  # the smallest whose bottleneck can be normalised
CLASSES, TEXT_DIM = 4, 5


class Toy(nn.Module):
    """Encodes a window with its own mean, so that where windows lie matters; K affine maps of text."""

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

    def decode(self, features: Any, text: torch.Tensor | None = None) -> torch.Tensor:
        text = self.default_text if text is None else text
        image, mean = features
        per_class = (text @ self.maps).expand(image.shape[0], -1)[:, :, None, None, None]
        logits: torch.Tensor = image * per_class + mean[:, None, None, None, None]
        return logits.to(per_class.dtype)

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
def test_each_volume_of_a_batch_meets_its_own_text(windows: int) -> None:
    images, texts = random(2, 1, 100, 40, 32), random(2, TEXT_DIM, seed=2)
    infer, network = make(sw_batch_size=windows), Toy()
    both = infer(images, network, texts)
    assert network.encoded == 8 // windows + (8 % windows > 0)  # 2 x 2 windows a volume
    assert both.shape == (2, CLASSES, 100, 40, 32)
    for index in (0, 1):
        own = slice(index, index + 1)
        torch.testing.assert_close(both[own], infer(images[own], network, texts[own]))
    assert not torch.allclose(both[:1], infer(images[:1], network, texts[1:]), atol=0.1)


def test_the_real_network_answers_each_volume_under_its_own_text(swin: CountedSwin) -> None:
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
    answer = infer(images, network, texts, named)
    first, second = (infer(images, network, texts[:, prompt]) for prompt in (0, 1))
    assert not torch.allclose(first, second, atol=0.1)
    torch.testing.assert_close(answer, torch.stack([second[:, 0], first[:, 2], second[:, 3]], dim=1))


def test_each_prompt_encodes_a_window_once_and_answers_as_separate_calls(swin: CountedSwin) -> None:
    image, texts = random(1, 1, 96, 32, 32), random(1, 3, TEXT_DIM, seed=2)
    separate = [make()(image, swin, texts[:, prompt]) for prompt in range(3)]
    for cache_gib, expected in ((4.0, 2), (0.0, 6)):
        swin.encoded = 0
        answers = list(make(cache_gib=cache_gib).each_prompt(image, swin, texts))
        assert swin.encoded == expected
        torch.testing.assert_close(answers, separate)


@pytest.mark.parametrize(("windows_that_fit", "expected"), [(0, 9), (1, 7), (2, 5), (3, 3)])
def test_windows_beyond_the_cache_are_encoded_again(windows_that_fit: int, expected: int) -> None:
    image, texts, network = random(1, 1, 150, 32, 32), random(1, 3, TEXT_DIM, seed=2), Toy()
    size = 4 * (64 * 32 * 32 + 1)
    infer = make(cache_gib=(windows_that_fit + 0.5) * size / 2**30)
    answers = list(infer.each_prompt(image, network, texts))
    assert network.encoded == expected
    torch.testing.assert_close(answers, [infer(image, network, texts[:, prompt]) for prompt in range(3)])


def test_without_text_the_default_prompt_stands_in() -> None:
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
def test_windows_that_the_network_cannot_take_are_refused(roi: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"three multiples of 32 voxels.*not \(64, 64"):
        PromptedSlidingWindowInferer(roi)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([[[1, 0, 0, 0]], [[0, 1, 0, 0]]], "same channels"),
        ([[[1, 0, 0, 0], [1, 1, 0, 0]]] * 2, "two prompts"),
    ],
)
def test_questions_that_have_no_answer_are_refused(named: list[list[list[int]]], message: str) -> None:
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
        answer = infer(image, network, text)
        assert answer.dtype == torch.float32
        torch.testing.assert_close(answer, network(image, text), atol=0.1 if expected else 1e-5, rtol=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_on_a_gpu() -> None:
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    with autocast(torch.device("cuda"), amp=True):
        assert torch.is_autocast_enabled("cuda") is native
