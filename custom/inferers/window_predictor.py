"""The windows of one volume, answered under prompts within the memory that there is."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch

from custom.inferers.feature_cache import CachedVolume
from custom.inferers.memory_limits import fitting_batch, out_of_memory
from custom.inferers.protocols import PromptedNetwork
from custom.inferers.windows import LogitsBuffer, Window, WindowGrid
from custom.utils.memory import is_out_of_memory
from custom.utils.precision import autocast

logger = logging.getLogger(__name__)

_STITCHING = "The memory of %s is short: logits are summed in main memory, which is slower."


class PromptQuery(NamedTuple):
    """What one volume is asked.

    Args:
        text: (P, E), a vector per prompt; None means the network's default prompt.
        channels: to read from the decode of each prompt, none of them twice; None means all, of the first.
    """

    text: torch.Tensor | None = None
    channels: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def of(cls, text: torch.Tensor, named: torch.Tensor) -> "PromptQuery":
        """From text (P, E) and a mask (P, K) bool of the channels to read from each prompt.

        Raises:
            ValueError: a channel asked from two prompts.
        """
        if (named.sum(0) > 1).any():
            raise ValueError("A channel can be read from one prompt only; two prompts name the same class.")
        return cls(text, tuple(tuple(row.nonzero().flatten().tolist()) for row in named))


class WindowPredictor:
    """Windows in, logits out, as many at once as memory allows, and the band in which the logits are summed.

    Args:
        network: see ``PromptedNetwork``.
        question: what is asked.
        known: features that need not be computed.
        roi_size: of a window.
        total: windows that share the cache.
        sw_batch_size: see ``PromptedSlidingWindowInferer``, as ``mode`` and ``amp``.
        mode: how windows that overlap are blended.
        amp: whether to compute in half precision.
    """

    def __init__(
        self,
        network: PromptedNetwork,
        query: PromptQuery,
        known: CachedVolume,
        *,
        roi_size: Sequence[int],
        total: int,
        sw_batch_size: int | None,
        mode: str,
        amp: bool,
    ) -> None:
        self.network = network
        self.query = query
        self.known = known
        self.roi_size = roi_size
        self.total = total
        self.batch = sw_batch_size or 1
        self.measure = sw_batch_size is None
        self.mode = mode
        self.amp = amp
        asked = sorted(channel for channels in query.channels or () for channel in channels)
        self.channels = len(asked)  # 0: as many as the network has
        #: Where the channels of each decode stand among all that are asked for.
        self.positions: list[list[int] | slice] = [slice(None)]
        if query.channels is not None:
            self.positions = [_run([asked.index(channel) for channel in part]) for part in query.channels if part]
        self.band: LogitsBuffer | None = None  # once a window is answered

    def lay_band(self, layout: WindowGrid, channels: int, device: torch.device) -> None:
        """Lay a band on the device, or where it has no room, in main memory."""
        try:
            self.band = LogitsBuffer(layout, channels, mode=self.mode, device=device)
        except RuntimeError as error:
            if not is_out_of_memory(error) or device.type == "cpu":
                raise
            logger.warning(_STITCHING, device)
            self.band = LogitsBuffer(layout, channels, mode=self.mode, device=torch.device("cpu"))

    def answer(self, windows: torch.Tensor, places: Sequence[Window]) -> list[torch.Tensor]:
        """Logits (B, n, h, w, d) of each decode of windows (B, C, h, w, d), which are halved until they fit.

        Where the batch size is not given, the first window tells how many go together. Where not even one fits, the
        band gives up its room on the GPU.
        """
        try:
            if not self.measure or windows.device.type != "cuda":
                return self._answer(windows, places)
            self.measure = False
            torch.cuda.reset_peak_memory_stats(windows.device)
            before = torch.cuda.memory_allocated(windows.device)
            logits = self._answer(windows, places)
            taken = torch.cuda.max_memory_allocated(windows.device) - before
            self.batch = fitting_batch(windows.device, taken_by_one=taken)
            return logits
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            alone = len(places) == 1
            if alone and (self.band is None or not self.band.leave_gpu()):
                raise out_of_memory(self.roi_size, windows.device) from error
        if windows.device.type == "cuda":
            torch.cuda.empty_cache()
        if alone:
            logger.warning(_STITCHING, windows.device)
            return self.answer(windows, places)
        half = self.batch = (len(places) + 1) // 2
        logger.warning("Memory is short: %d windows go together from here on.", half)
        halves = self.answer(windows[:half], places[:half]), self.answer(windows[half:], places[half:])
        return [torch.cat(both) for both in zip(*halves, strict=True)]

    def _answer(self, windows: torch.Tensor, places: Sequence[Window]) -> list[torch.Tensor]:
        names = [tuple(side.start for side in place) for place in places]
        text = self.query.text
        with autocast(windows.device, amp=self.amp):
            features = self.known.encode(self.network, windows, names, total=self.total)
            if self.query.channels is None:
                return [self.network.decode(features, None if text is None else text[:1])]
            return [
                self.network.decode(features, None if text is None else text[prompt : prompt + 1], channels=channels)
                for prompt, channels in enumerate(self.query.channels)
                if channels
            ]


def _run(positions: list[int]) -> list[int] | slice:
    """Positions as a slice, where they follow each other: no copy is made then."""
    first, stop = positions[0], positions[-1] + 1
    return slice(first, stop) if positions == list(range(first, stop)) else positions
