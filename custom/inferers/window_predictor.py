"""Running the network on the windows of one volume, within the available memory."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from custom.inferers.feature_cache import FeatureCache
from custom.inferers.progress import Advance
from custom.inferers.protocols import PromptedNetwork
from custom.inferers.windows import LogitsBuffer, Slab, Window, WindowGrid
from custom.utils.memory import NotEnoughMemory, is_out_of_memory
from custom.utils.precision import autocast

logger = logging.getLogger(__name__)

_USES_MAIN_MEMORY = "The memory of %s is short: logits are summed in main memory, which is slower."


#: The vector (1, E) of a prompt, None for the network's default, and the channels to compute under it, None for all.
Prompt = tuple[torch.Tensor | None, tuple[int, ...] | None]


def named_prompts(text: torch.Tensor, named: torch.Tensor) -> list[Prompt]:
    """Prompts from their vectors (P, E) and a mask (P, K) bool of the channels of each; ValueError if two share one."""
    if (named.sum(0) > 1).any():
        raise ValueError("A channel can be read from one prompt only; two prompts name the same class.")
    return [(text[i : i + 1], tuple(row.nonzero().flatten().tolist())) for i, row in enumerate(named) if row.any()]


@dataclass
class WindowPredictor:
    """Predict the windows of one volume, as many at once as memory allows, and sum their logits.

    For ``sw_batch_size`` and what follows it see ``PromptedSlidingWindowInferer``.
    """

    image: torch.Tensor  # (1, C, H, W, D)
    network: PromptedNetwork
    prompts: Sequence[Prompt]  # no channel of two
    cache: FeatureCache
    grid: WindowGrid
    sw_batch_size: int | None
    mode: str
    amp: bool
    skip_air: bool

    def __post_init__(self) -> None:
        self.volume = self.cache.volume_key(self.image, self.network, self.amp, self.grid.roi_size)
        self.image = self.grid.pad(self.image)
        self.batch_size = self.sw_batch_size or 1
        self.measure = self.sw_batch_size is None
        parts = [part for _, part in self.prompts if part is not None]
        channels = sorted(chain(*parts))
        self.channels = len(channels)  # 0: all that the network has
        #: Positions of each prompt's channels in the buffer.
        self.positions = [_as_slice([channels.index(one) for one in part]) for part in parts] or [slice(None)]
        self.buffer: LogitsBuffer | None = None  # allocated with the first window

    def slabs(self, advance: Advance) -> Iterator[Slab]:
        """Yield the logits slab by slab."""
        for row, end in self.grid.rows:
            while row:
                windows, row = row[: self.batch_size], row[self.batch_size :]
                self._add(windows)
                advance(len(windows))
            assert self.buffer is not None  # every row has a window
            yield from self.buffer.finish(end)

    def _add(self, windows: Sequence[Window]) -> None:
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

    def predict(self, images: torch.Tensor, windows: Sequence[Window]) -> list[torch.Tensor]:
        """Logits (B, n, h, w, d) under each prompt of window images (B, C, h, w, d), halving the batch until it fits.

        Without a given batch size, the memory of the first window decides how many are predicted together. If not even
        one fits on the GPU, the buffer moves to main memory.
        """
        on_gpu = images.device.type == "cuda"
        try:
            if not self.measure or not on_gpu:
                return self._predict(images, windows)
            self.measure = False
            torch.cuda.reset_peak_memory_stats(images.device)
            before = torch.cuda.memory_allocated(images.device)
            logits = self._predict(images, windows)
            peak = torch.cuda.max_memory_allocated(images.device) - before
            self.batch_size = _fitting_batch(images.device, window_bytes=peak)
            return logits
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            single = len(windows) == 1
            if single and (self.buffer is None or not self.buffer.move_to_cpu()):
                sides = " x ".join(map(str, self.grid.roi_size))
                larger = "a larger GPU, or --device cpu" if on_gpu else "a machine with more memory"
                raise NotEnoughMemory(
                    f"There must be memory for one window of {sides} voxels on {images.device}, and there is not. "
                    f"Close other programs, or use {larger}."
                ) from error
        if on_gpu:
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
        keys = [tuple(side.start for side in window) for window in windows]
        with autocast(images.device, amp=self.amp):
            features = self.cache.encode(self.network, images, volume=self.volume, windows=keys, total=len(self.grid))
            return [self.network.decode(features, text, channels=channels) for text, channels in self.prompts]


def _fitting_batch(device: torch.device, *, window_bytes: int) -> int:
    """As many windows as half of a GPU's free memory holds, at most 8: more do not make it faster."""
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own free memory
    return max(1, min(8, free // 2 // max(window_bytes, 1)))


def _as_slice(positions: list[int]) -> list[int] | slice:
    """Consecutive positions as a slice, which indexes without a copy."""
    first, stop = positions[0], positions[-1] + 1
    return slice(first, stop) if positions == list(range(first, stop)) else positions
