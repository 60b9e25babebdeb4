"""Inference with text: half precision where it gains, each window encoded once, decoded once per prompt."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, sliding_window_inference

from custom.knobs import check_roi_size
from custom.progress import WindowProgress


class PromptedNetwork(Protocol):
    """A network that separates what depends on text from what does not, as ``FiLMSwinUNETR`` does."""

    def encode(self, image: torch.Tensor) -> Any:
        """All that does not depend on text, for (B, C, H, W, D): one or several tensors."""

    def decode(self, features: Any, text: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B, K, H, W, D) under text (B, E), (1, E) or the default prompt."""

    def __call__(self, image: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B, K, H, W, D) under text (B, E), (1, E) or the default prompt."""


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 natively.

    A CPU without AVX-512 BF16 or AMX emulates it some twenty times slower than float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(device: torch.device, *, amp: bool) -> torch.autocast:
    """Bfloat16 autocast where ``device`` computes in it natively and ``amp`` asks for it, else full precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=amp and computes_bfloat16(device))


class PromptedInferer(Inferer):
    """One forward pass on a whole batch, as training does.

    Args:
        amp: use bfloat16 where the device computes in it natively.
    """

    def __init__(self, *, amp: bool = True) -> None:
        self.amp = amp

    def __call__(
        self, inputs: torch.Tensor, network: PromptedNetwork, text: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits (B, K, H, W, D) float32 of images (B, C, H, W, D) under text (B, E) or the default prompt."""
        with autocast(inputs.device, amp=self.amp):
            logits = network(inputs, text)
        return logits.float()


class PromptedSlidingWindowInferer(Inferer):
    """Sliding windows that are encoded once and decoded once per prompt.

    Stitching is MONAI's ``sliding_window_inference``; volumes smaller than a window are padded with 0 (air, after
    intensity scaling).

    Args:
        roi_size: window, three sides in voxels, multiples of 32.
        sw_batch_size: windows per network call.
        overlap: of neighbouring windows, in [0, 1).
        mode: "constant" or "gaussian" blending.
        amp: use bfloat16 where the device computes in it natively.
        progress: shows how far a volume is; None shows nothing.
        cache_gib: how much memory encoded windows may take while several prompts of one volume are answered by
            ``each_prompt``; windows beyond it are encoded again for every prompt.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        *,
        sw_batch_size: int = 1,
        overlap: float = 0.25,
        mode: str = "gaussian",
        amp: bool = True,
        progress: WindowProgress | None = None,
        cache_gib: float = 4.0,
    ) -> None:
        check_roi_size(roi_size)
        self.roi_size = tuple(roi_size)
        self.sw_batch_size = sw_batch_size
        self.overlap = overlap
        self.mode = mode
        self.amp = amp
        self.progress = progress
        self.cache_gib = cache_gib

    def __call__(
        self,
        inputs: torch.Tensor,
        network: PromptedNetwork,
        text: torch.Tensor | None = None,
        named: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Stitched logits of volumes (B, C, H, W, D).

        Args:
            inputs: B volumes of one size.
            network: see ``PromptedNetwork``.
            text: (B, E), a vector per volume: all K channels are answered. Or (B, P, E), P prompts per volume, with
                ``named``. None means the network's default prompt.
            named: (B, P, K) bool: the channels to read from the decode of each prompt; every volume asks for the same
                channels, and every channel from one prompt at most.

        Returns:
            (B, K, H, W, D) float32, or with ``named`` only the channels asked for, in the order of the class set.

        Raises:
            ValueError: volumes that ask for different channels, or a channel asked from two prompts.
        """
        vectors = text[:, None] if text is not None and named is None else text
        sources = None if named is None else _sources(named)
        with self._watch(inputs, prompts=1) as advance:
            return self._stitch(inputs, network, vectors, sources, _Encoded(limit=0), advance)

    def each_prompt(self, inputs: torch.Tensor, network: PromptedNetwork, text: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield, prompt by prompt, the logits (1, K, H, W, D) of one volume (1, C, H, W, D) under text (1, P, E)."""
        encoded = _Encoded(limit=int(self.cache_gib * 2**30))
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        with self._watch(inputs, prompts=text.shape[1]) as advance:
            for index in range(text.shape[1]):
                yield self._stitch(image, network, text[:, index : index + 1], None, encoded, advance)

    def _watch(self, inputs: torch.Tensor, *, prompts: int) -> AbstractContextManager[Callable[[int], None]]:
        if self.progress is None:
            return nullcontext(lambda count: None)
        windows = inputs.shape[0]
        for image, roi in zip(inputs.shape[2:], self.roi_size, strict=True):  # as MONAI lays them
            step = max(int(roi * (1 - self.overlap)), 1)
            windows *= 1 + max(math.ceil((image - roi) / step), 0)
        return self.progress.volume(inputs, windows=windows, prompts=prompts)

    def _stitch(
        self,
        inputs: torch.Tensor,
        network: PromptedNetwork,
        vectors: torch.Tensor | None,
        sources: list[tuple[int, int]] | None,
        encoded: "_Encoded",
        advance: Callable[[int], None],
    ) -> torch.Tensor:
        """Windows of (B, C, H, W, D) decoded under vectors (B, P, E); ``sources``: (prompt, channel) per output.

        Without vectors, under the network's default prompt; without sources, all channels under the first prompt.
        """

        def predict(windows: torch.Tensor, coordinates: Sequence[Sequence[slice]]) -> torch.Tensor:
            volumes = [place[0].start for place in coordinates]
            with autocast(windows.device, amp=self.amp):
                features = encoded(str(coordinates), lambda: network.encode(windows))
                decoded = {
                    prompt: network.decode(features, None if vectors is None else vectors[volumes, prompt])
                    for prompt in {prompt for prompt, _ in sources or [(0, 0)]}
                }
                if sources is None:
                    answer = decoded[0]
                else:
                    answer = torch.stack([decoded[prompt][:, channel] for prompt, channel in sources], dim=1)
            advance(windows.shape[0])
            return answer.float()

        stitched: Any = sliding_window_inference(
            inputs,
            self.roi_size,
            self.sw_batch_size,
            predict,
            overlap=self.overlap,
            mode=self.mode,
            with_coord=True,
        )
        result: torch.Tensor = stitched
        return result


class _Encoded:
    """Features by window, up to a limit in bytes."""

    def __init__(self, *, limit: int) -> None:
        self._free = limit
        self._held: dict[str, Any] = {}

    def __call__(self, key: str, encode: Callable[[], Any]) -> Any:
        if key in self._held:
            return self._held[key]
        features = encode()
        size = sum(tensor.nbytes for tensor in features)
        if size <= self._free:
            self._free -= size
            self._held[key] = features
        return features


def _sources(named: torch.Tensor) -> list[tuple[int, int]]:
    """(prompt, channel) pairs of a mask (B, P, K), ordered by channel."""
    if (named != named[:1]).any():
        raise ValueError("All volumes of a batch must ask for the same channels of the same prompts.")
    if (named[0].sum(0) > 1).any():
        raise ValueError("A channel can be read from one prompt only; two prompts name the same class.")
    return [(int(prompt), int(channel)) for channel, prompt in named[0].T.nonzero().tolist()]
