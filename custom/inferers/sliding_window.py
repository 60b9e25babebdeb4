"""Sliding-window inference under prompts."""

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

    Windows are placed and weighted as in MONAI's ``sliding_window_inference``; volumes smaller than a window are padded
    with 0 (air, after intensity scaling). If memory runs out, fewer windows are predicted together, then logits are
    summed in main memory instead of the GPU's; both are logged.

    Args:
        roi_size: window, three sides in voxels, multiples of 32.
        sw_batch_size: windows per network call; None: 1 on a CPU, on a GPU as many as half of its free memory holds.
        overlap: of neighbouring windows, in [0, 1).
        mode: "constant" or "gaussian" blending.
        amp: use bfloat16 where the device computes in it natively.
        skip_air: leave windows without any voxel above 0 (the lower end of the intensity window) empty, without running
            the network.
        progress: a progress bar; None shows nothing.
        cache_gib: memory for encoded windows in ``each_prompt``; windows that do not fit are encoded for every prompt.
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
            text: (B, E), a vector per volume, for all K channels; or with ``named`` (B, P, E), P prompts per volume.
                None means the network's default prompt.
            named: (B, P, K) bool: the channels to read under each prompt, the same for every volume; each channel under
                one prompt at most.

        Returns:
            (B, K, H, W, D) float32; with ``named``, the named channels only, in ascending order.

        Raises:
            ValueError: volumes with different channels, or a channel named by two prompts.
        """
        if named is not None and (named != named[:1]).any():
            raise ValueError("All volumes of a batch must name the same channels for the same prompts.")
        volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        logits = []
        with self.track_progress(inputs, prompts=1) as advance:
            for i in range(len(volumes)):
                if named is not None and text is not None:
                    query = PromptQuery.from_mask(text[i], named[i])
                else:
                    query = PromptQuery(None if text is None else text[i : i + 1])
                logits.append(self._logits(volumes[i : i + 1], network, query, FeatureCache(gib=0), advance))
        return torch.cat(logits)

    def each_prompt(self, inputs: torch.Tensor, network: PromptedNetwork, text: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield, prompt by prompt, the logits (1, K, H, W, D) of one volume (1, C, H, W, D) under text (1, P, E)."""
        cache = FeatureCache(gib=self.cache_gib if text.shape[1] > 1 else 0)
        with self.track_progress(inputs, prompts=text.shape[1]) as advance:
            for vector in text[0]:
                yield self._logits(inputs, network, PromptQuery(vector[None]), cache, advance)

    def track_progress(self, inputs: torch.Tensor, *, prompts: int) -> AbstractContextManager[Callable[[int], None]]:
        """A context that yields ``advance`` for ``slabs``."""
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
        """Yield the logits of one volume slab by slab, holding only as many planes as a window has.

        Args:
            image: (1, C, H, W, D).
            network: see ``PromptedNetwork``.
            query: prompts and channels.
            cache: of window features.
            advance: called with the number of windows just finished.
        """
        if isinstance(image, MetaTensor):
            image = image.as_tensor()
        with keep_freed_memory() if image.device.type == "cpu" else nullcontext():
            grid = WindowGrid(image.shape[2:], self.roi_size, self.overlap)
            predictor = WindowPredictor(
                image,
                network,
                query,
                cache=cache,
                grid=grid,
                sw_batch_size=self.sw_batch_size,
                mode=self.mode,
                amp=self.amp,
                skip_air=self.skip_air,
            )
            for row, end in grid.rows:
                while row:
                    windows, row = row[: predictor.batch_size], row[predictor.batch_size :]
                    predictor.add(windows)
                    advance(len(windows))
                yield from predictor.finish(end)

    def _logits(
        self,
        image: torch.Tensor,
        network: PromptedNetwork,
        query: PromptQuery,
        cache: FeatureCache,
        advance: Callable[[int], None],
    ) -> torch.Tensor:
        """Logits (1, n, H, W, D) of one volume (1, C, H, W, D)."""
        logits: torch.Tensor | None = None
        for slab in self.slabs(image, network, query, cache=cache, advance=advance):
            if logits is None:
                logits = torch.empty(1, slab.logits.shape[0], *image.shape[2:], device=image.device)
            logits[0].narrow(slab.axis + 1, slab.start, slab.logits.shape[slab.axis + 1]).copy_(slab.logits)
        assert logits is not None  # a volume has a plane
        return logits
