"""Running the network on the windows of one volume, within the available memory."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from custom.inferers.feature_cache import FeatureCache
from custom.inferers.memory_limits import fitting_batch
from custom.inferers.protocols import PromptedNetwork
from custom.inferers.windows import LogitsBuffer, Slab, Window, WindowGrid
from custom.utils.memory import NotEnoughMemory, is_out_of_memory
from custom.utils.precision import autocast

logger = logging.getLogger(__name__)

_USES_MAIN_MEMORY = "The memory of %s is short: logits are summed in main memory, which is slower."


class PromptQuery(NamedTuple):
    """The prompts of one volume, and the channels to compute under each.

    Args:
        text: (P, E), a vector per prompt; None means the network's default prompt.
        channels: of each prompt, none of them twice; None means all channels, under the first prompt.
    """

    text: torch.Tensor | None = None
    channels: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def from_mask(cls, text: torch.Tensor, named: torch.Tensor) -> "PromptQuery":
        """From text (P, E) and a mask (P, K) bool of the channels of each prompt.

        Raises:
            ValueError: a channel of two prompts.
        """
        if (named.sum(0) > 1).any():
            raise ValueError("A channel can be read from one prompt only; two prompts name the same class.")
        return cls(text, tuple(tuple(row.nonzero().flatten().tolist()) for row in named))


class WindowPredictor:
    """Predict the windows of one volume, as many at once as memory allows, and sum their logits.

    Args:
        image: the volume (1, C, H, W, D).
        network: see ``PromptedNetwork``.
        query: prompts and channels.
        cache: of window features.
        grid: the windows.
        sw_batch_size: see ``PromptedSlidingWindowInferer``, as ``mode``, ``amp`` and ``skip_air``.
        mode: blending of overlapping windows.
        amp: whether to compute in half precision.
        skip_air: whether to skip windows of air.
    """

    def __init__(
        self,
        image: torch.Tensor,
        network: PromptedNetwork,
        query: PromptQuery,
        *,
        cache: FeatureCache,
        grid: WindowGrid,
        sw_batch_size: int | None,
        mode: str,
        amp: bool,
        skip_air: bool,
    ) -> None:
        self.image = grid.pad(image)
        self.volume = cache.volume_key(image, network, amp, grid.roi_size)
        self.network = network
        self.query = query
        self.cache = cache
        self.grid = grid
        self.batch_size = sw_batch_size or 1
        self.measure = sw_batch_size is None
        self.mode = mode
        self.amp = amp
        self.skip_air = skip_air
        channels = sorted(channel for part in query.channels or () for channel in part)
        self.channels = len(channels)  # 0: all that the network has
        #: Positions of each prompt's channels in the buffer.
        self.positions = [
            _as_slice([channels.index(channel) for channel in part]) for part in query.channels or () if part
        ] or [slice(None)]
        self.buffer: LogitsBuffer | None = None  # allocated with the first window

    def add(self, windows: Sequence[Window]) -> None:
        """Predict windows and add their logits to the buffer."""
        images = torch.cat([self.image[(slice(None), slice(None), *window)] for window in windows])
        visible = [not self.skip_air or bool((part > 0).any()) for part in images]
        predicted = [window for window, seen in zip(windows, visible, strict=True) if seen]
        logits = self.predict(images[visible], predicted) if predicted else []
        if self.buffer is None:  # even of air, the network tells how many channels it has
            channels = self.channels or (logits or self.predict(images[:1], windows[:1]))[0].shape[1]
            self.buffer = self._allocate(channels, images.device)
        for i, window in enumerate(predicted):
            self.buffer.add(window, [part[i] for part in logits], self.positions)

    def finish(self, end: int) -> Iterator[Slab]:
        """See ``LogitsBuffer.finish``."""
        assert self.buffer is not None  # every row has a window
        yield from self.buffer.finish(end)

    def predict(self, images: torch.Tensor, windows: Sequence[Window]) -> list[torch.Tensor]:
        """Logits (B, n, h, w, d) under each prompt of window images (B, C, h, w, d), halving the batch until it fits.

        Without a given batch size, the memory of the first window decides how many are predicted together. If not even
        one fits on the GPU, the buffer moves to main memory.
        """
        try:
            if not self.measure or images.device.type != "cuda":
                return self._predict(images, windows)
            self.measure = False
            torch.cuda.reset_peak_memory_stats(images.device)
            before = torch.cuda.memory_allocated(images.device)
            logits = self._predict(images, windows)
            peak = torch.cuda.max_memory_allocated(images.device) - before
            self.batch_size = fitting_batch(images.device, window_bytes=peak)
            return logits
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            single = len(windows) == 1
            if single and (self.buffer is None or not self.buffer.move_to_cpu()):
                sides = " x ".join(map(str, self.grid.roi_size))
                on_gpu = images.device.type == "cuda"
                larger = "a larger GPU, or --device cpu" if on_gpu else "a machine with more memory"
                raise NotEnoughMemory(
                    f"There must be memory for one window of {sides} voxels on {images.device}, and there is not. "
                    f"Close other programs, or use {larger}."
                ) from error
        if images.device.type == "cuda":
            torch.cuda.empty_cache()
        if single:
            logger.warning(_USES_MAIN_MEMORY, images.device)
            return self.predict(images, windows)
        half = self.batch_size = (len(windows) + 1) // 2
        logger.warning("Memory is short: %d windows go together from here on.", half)
        halves = self.predict(images[:half], windows[:half]), self.predict(images[half:], windows[half:])
        return [torch.cat(both) for both in zip(*halves, strict=True)]

    def _allocate(self, channels: int, device: torch.device) -> LogitsBuffer:
        """A buffer on the device, or in main memory if it does not fit there."""
        try:
            return LogitsBuffer(self.grid, channels, mode=self.mode, device=device)
        except RuntimeError as error:
            if not is_out_of_memory(error) or device.type == "cpu":
                raise
        logger.warning(_USES_MAIN_MEMORY, device)
        return LogitsBuffer(self.grid, channels, mode=self.mode, device=torch.device("cpu"))

    def _predict(self, images: torch.Tensor, windows: Sequence[Window]) -> list[torch.Tensor]:
        corners = [tuple(side.start for side in window) for window in windows]
        text, channels = self.query
        with autocast(images.device, amp=self.amp):
            features = self.cache.encode(
                self.network, images, volume=self.volume, windows=corners, total=len(self.grid)
            )
            if channels is None:
                return [self.network.decode(features, None if text is None else text[:1])]
            return [
                self.network.decode(features, None if text is None else text[prompt : prompt + 1], channels=part)
                for prompt, part in enumerate(channels)
                if part
            ]


def _as_slice(positions: list[int]) -> list[int] | slice:
    """Consecutive positions as a slice, which indexes without a copy."""
    first, stop = positions[0], positions[-1] + 1
    return slice(first, stop) if positions == list(range(first, stop)) else positions
