"""Sliding-window inference under prompts."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from custom.inferers.feature_cache import FeatureCache
from custom.inferers.progress import Advance, WindowProgress
from custom.inferers.protocols import PromptedNetwork
from custom.inferers.window_predictor import Prompt, WindowPredictor, named_prompts
from custom.inferers.windows import Slab, WindowGrid
from custom.networks.sizes import check_roi_size
from custom.utils.memory import keep_freed_memory


@dataclass(eq=False)
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

    roi_size: Sequence[int]
    _: KW_ONLY
    sw_batch_size: int | None = None
    overlap: float = 0.25
    mode: str = "gaussian"
    amp: bool = True
    skip_air: bool = True
    progress: WindowProgress | None = None
    cache_gib: float = 4.0

    def __post_init__(self) -> None:
        check_roi_size(self.roi_size)
        self.roi_size = tuple(self.roi_size)

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
        logits, no_cache = [], FeatureCache(gib=0)
        with self.track_progress(inputs, prompts=1) as advance:
            for i in range(len(volumes)):
                prompts: list[Prompt] = [(None if text is None else text[i : i + 1], None)]
                if named is not None and text is not None:
                    prompts = named_prompts(text[i], named[i])
                slabs = self.slabs(volumes[i : i + 1], network, prompts, cache=no_cache, advance=advance)
                logits.append(_join(slabs, inputs))
        return torch.cat(logits)

    def each_prompt(self, inputs: torch.Tensor, network: PromptedNetwork, text: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield, prompt by prompt, the logits (1, K, H, W, D) of one volume (1, C, H, W, D) under text (1, P, E)."""
        cache = FeatureCache(gib=self.cache_gib if text.shape[1] > 1 else 0)
        with self.track_progress(inputs, prompts=text.shape[1]) as advance:
            for vector in text[0]:
                slabs = self.slabs(inputs, network, [(vector[None], None)], cache=cache, advance=advance)
                yield _join(slabs, inputs)

    def track_progress(self, inputs: torch.Tensor, *, prompts: int) -> AbstractContextManager[Advance]:
        """A context that yields ``advance`` for ``slabs``."""
        if self.progress is None:
            return nullcontext(lambda count: None)
        windows = len(WindowGrid(inputs.shape[2:], self.roi_size, self.overlap)) * inputs.shape[0]
        return self.progress.volume(inputs, windows=windows, prompts=prompts)

    def slabs(
        self,
        image: torch.Tensor,
        network: PromptedNetwork,
        prompts: Sequence[Prompt],
        *,
        cache: FeatureCache,
        advance: Advance,
    ) -> Iterator[Slab]:
        """Yield the logits of one volume (1, C, H, W, D) slab by slab, holding only as many planes as a window has."""
        if isinstance(image, MetaTensor):
            image = image.as_tensor()
        with keep_freed_memory() if image.device.type == "cpu" else nullcontext():
            grid = WindowGrid(image.shape[2:], self.roi_size, self.overlap)
            settings = (self.sw_batch_size, self.mode, self.amp, self.skip_air)
            yield from WindowPredictor(image, network, prompts, cache, grid, *settings).slabs(advance)


def _join(slabs: Iterator[Slab], image: torch.Tensor) -> torch.Tensor:
    """Logits (1, n, H, W, D) of one volume of the size of ``image``, on its device."""
    logits: torch.Tensor | None = None
    for start, part, axis in slabs:
        if logits is None:
            logits = torch.empty(1, part.shape[0], *image.shape[2:], device=image.device)
        logits[0].narrow(axis + 1, start, part.shape[axis + 1]).copy_(part)
    assert logits is not None  # a volume has a plane
    return logits
