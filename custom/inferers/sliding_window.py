"""Sliding windows over volumes, under prompts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from custom.inferers.feature_cache import FeatureCache
from custom.inferers.progress import WindowProgress
from custom.inferers.protocols import PromptedNetwork
from custom.inferers.window_predictor import PromptQuery, WindowPredictor
from custom.inferers.windows import Slab, WindowGrid
from custom.networks.sizes import check_roi_size
from custom.utils.allocator import keep_freed_memory


class PromptedSlidingWindowInferer(Inferer):
    """Sliding windows that are encoded once and decoded once per prompt.

    Windows lie and are weighted as in MONAI's ``sliding_window_inference``; volumes smaller than a window are padded
    with 0 (air, after intensity scaling). Where memory runs out, fewer windows go together, then their logits are
    summed in main memory instead of the GPU's, and the log says so.

    Args:
        roi_size: window, three sides in voxels, multiples of 32.
        sw_batch_size: windows per network call; None: 1 on a CPU, on a GPU as many as half of its free memory holds.
        overlap: of neighbouring windows, in [0, 1).
        mode: "constant" or "gaussian" blending.
        amp: use bfloat16 where the device computes in it natively.
        skip_air: answer windows without any voxel above 0 (the lower end of the intensity window) with "nothing"
            unseen. A network that finds something in plain air is thereby kept from it.
        progress: shows how far a volume is; None shows nothing.
        cache_gib: how much memory encoded windows may take while several prompts of one volume are answered by
            ``each_prompt``; windows beyond it are encoded again for every prompt.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        *,
        sw_batch_size: int | None = None,
        overlap: float = 0.25,
        mode: str = "gaussian",
        amp: bool = True,
        skip_air: bool = True,
        progress: WindowProgress | None = None,
        cache_gib: float = 4.0,
    ) -> None:
        check_roi_size(roi_size)
        self.roi_size = tuple(roi_size)
        self.sw_batch_size = sw_batch_size
        self.overlap = overlap
        self.mode = mode
        self.amp = amp
        self.skip_air = skip_air
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
        if named is not None and (named != named[:1]).any():
            raise ValueError("All volumes of a batch must ask for the same channels of the same prompts.")
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        answers = []
        with self.watch(inputs, prompts=1) as advance:
            for index in range(image.shape[0]):
                own = slice(index, index + 1)
                if named is not None and text is not None:
                    query = PromptQuery.of(text[index], named[index])
                else:
                    query = PromptQuery(None if text is None else text[own])
                answers.append(self._whole(image[own], network, query, FeatureCache(gib=0), advance))
        return torch.cat(answers)

    def each_prompt(self, inputs: torch.Tensor, network: PromptedNetwork, text: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield, prompt by prompt, the logits (1, K, H, W, D) of one volume (1, C, H, W, D) under text (1, P, E)."""
        cache = FeatureCache(gib=self.cache_gib if text.shape[1] > 1 else 0)
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        with self.watch(inputs, prompts=text.shape[1]) as advance:
            for vector in text[0]:
                yield self._whole(image, network, PromptQuery(vector[None]), cache, advance)

    def watch(self, inputs: torch.Tensor, *, prompts: int) -> AbstractContextManager[Callable[[int], None]]:
        """A context that yields what ``slabs`` calls with the number of windows done, for a bar."""
        if self.progress is None:
            return nullcontext(lambda count: None)
        windows = len(WindowGrid(inputs.shape[2:], self.roi_size, self.overlap)) * inputs.shape[0]
        return self.progress.volume(inputs, windows=windows, prompts=prompts)

    def slabs(
        self,
        image: torch.Tensor,
        network: PromptedNetwork,
        query: PromptQuery,
        *,
        cache: FeatureCache,
        advance: Callable[[int], None],
    ) -> Iterator[Slab]:
        """Yield the logits of one volume (1, C, H, W, D), slab by slab, along the axis of its ``WindowGrid``.

        Whatever the volume's length, only as many planes as a window has are held.

        Args:
            image: the volume.
            network: see ``PromptedNetwork``.
            question: what it is asked; n channels.
            cache: where features of windows are found and kept.
            advance: called with the number of windows done.
        """
        with keep_freed_memory() if image.device.type == "cpu" else nullcontext():
            layout = WindowGrid(image.shape[2:], self.roi_size, self.overlap)
            padded = layout.pad(image)
            known = cache.volume(image, network, self.amp, self.roi_size)
            work = WindowPredictor(
                network,
                query,
                known,
                roi_size=self.roi_size,
                total=len(layout),
                sw_batch_size=self.sw_batch_size,
                mode=self.mode,
                amp=self.amp,
            )
            following = [start for start, _ in layout.rows[1:]] + [layout.padded[layout.axis]]
            for (_, row), until in zip(layout.rows, following, strict=True):
                while row:
                    places, row = row[: work.batch], row[work.batch :]
                    windows = torch.cat([padded[(slice(None), slice(None), *place)] for place in places])
                    seen = [not self.skip_air or bool((window > 0).any()) for window in windows]
                    looked = [place for place, see in zip(places, seen, strict=True) if see]
                    answered = work.answer(windows[seen], looked) if looked else None
                    if work.band is None:
                        channels = work.channels
                        if not channels:  # as many as the network has, which it tells, be the window air
                            channels = (answered or work.answer(windows[:1], places[:1]))[0].shape[1]
                        work.lay_band(layout, channels, windows.device)
                    if answered is not None and work.band is not None:
                        for i, place in enumerate(looked):
                            work.band.add(place, [logits[i] for logits in answered], work.positions)
                    del windows, answered  # before the next ones take memory
                    advance(len(places))
                if work.band is not None:
                    yield from work.band.finish(until)

    def _whole(
        self,
        image: torch.Tensor,
        network: PromptedNetwork,
        query: PromptQuery,
        cache: FeatureCache,
        advance: Callable[[int], None],
    ) -> torch.Tensor:
        """Logits (1, n, H, W, D) of one volume (1, C, H, W, D)."""
        whole: torch.Tensor | None = None
        for slab in self.slabs(image, network, query, cache=cache, advance=advance):
            if whole is None:
                whole = image.new_empty(1, slab.logits.shape[0], *image.shape[2:], dtype=torch.float32)
            whole[0].narrow(slab.axis + 1, slab.start, slab.logits.shape[slab.axis + 1]).copy_(slab.logits)
        assert whole is not None  # a volume has a plane
        return whole
