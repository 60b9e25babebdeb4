"""Features of windows, kept for the next prompt on the same image."""

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch

from custom.inferers.protocols import PromptedNetwork, TwoStageNetwork
from custom.utils.memory import available_memory

#: Default limit in GiB: some fifty windows of 96x96x96 voxels at feature size 48.
MAX_GIB = 8.0


def fitting_cache(prompts: Sequence[str] | None) -> float:
    """GiB for encoded windows: for several prompts half of the free memory, at most ``MAX_GIB``; else 0."""
    if not prompts:
        return 0.0
    free = available_memory()
    return MAX_GIB if free is None else min(MAX_GIB, free / 2**31)


class WindowFeatures(NamedTuple):
    """The features of one window, in half precision where it can represent them."""

    tensors: tuple[torch.Tensor, ...]
    dtypes: tuple[torch.dtype, ...]  # when decoded
    kind: type[Any]  # in which the network returns features
    low_res_only: bool  # whether the high-resolution features are left out

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


class FeatureCache:
    """Features of the windows of the most recently used volumes, in half precision in main memory.

    Of a volume whose features would not all fit, only the low-resolution ones of a ``TwoStageNetwork`` are kept: a
    thirteenth of the memory for three fifths of the gain. Windows that still do not fit are encoded again. Volumes are
    identified by their voxels, not their file.

    Features are rounded to half precision before the first decoding too, so that results do not depend on earlier
    requests.

    ``gib`` is the limit in GiB, at least 0, which disables the cache and the rounding.
    """

    def __init__(self, *, gib: float) -> None:
        if not gib >= 0:
            raise ValueError(f"A cache of features must have at least 0 GiB, not {gib}.")
        self.limit = int(gib * 2**30)
        self.used = 0  # bytes
        self._volumes: OrderedDict[Hashable, dict[Hashable, WindowFeatures]] = OrderedDict()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: Any) -> "FeatureCache":
        return self  # shared by copies of an inferer

    def volume_key(self, image: torch.Tensor, network: PromptedNetwork, *settings: Hashable) -> Hashable:
        """Identify a volume (1, C, H, W, D) by its voxels, the network and its changes, and whatever else matters."""
        if not self.limit:
            return None
        changes = sum(0 if p.is_inference() else p._version for p in getattr(network, "parameters", tuple)())
        voxels = hashlib.blake2b(image.detach().cpu().contiguous().numpy().data, digest_size=16).digest()
        return weakref.ref(network), changes, voxels, tuple(image.shape), *settings

    def encode(
        self,
        network: PromptedNetwork,
        images: torch.Tensor,
        *,
        volume: Hashable,
        windows: Sequence[Hashable],
        total: int,
    ) -> Any:
        """``network.encode(images)`` of B windows (B, C, h, w, d), from the cache where possible.

        ``volume`` is their ``volume_key``, ``windows`` are their B keys within it, of ``total``.
        """
        if not self.limit:
            return network.encode(images)
        if cached := self._get(volume, windows):
            _, dtypes, kind, low_res_only = cached[0]
            tensors = [  # converted before joining, for bfloat16 autocast cannot concatenate float16
                torch.cat([part.to(images.device).to(dtype) for part in parts])
                for *parts, dtype in zip(*(features.tensors for features in cached), dtypes, strict=True)
            ]
            if low_res_only and isinstance(network, TwoStageNetwork):
                tensors = [*network.encode_high_res(images), *tensors]
            return _as_kind(kind, tensors)
        features = network.encode(images)
        tensors = [features] if isinstance(features, torch.Tensor) else list(features)
        volume_bytes = sum(tensor.numel() for tensor in tensors) * 2 // len(windows) * total
        low_res_only = isinstance(network, TwoStageNetwork) and volume_bytes > self.limit
        skipped = 2 if low_res_only else 0
        dtypes = tuple(tensor.dtype for tensor in tensors[skipped:])
        rounded = [_to_half(tensor) for tensor in tensors[skipped:]]
        for i, window in enumerate(windows):
            own = tuple(tensor[i : i + 1].cpu().clone() for tensor in rounded)
            self._put(volume, window, WindowFeatures(own, dtypes, type(features), low_res_only))
        restored = (tensor.to(dtype) for tensor, dtype in zip(rounded, dtypes, strict=True))
        return _as_kind(type(features), [*tensors[:skipped], *restored])

    def _get(self, volume: Hashable, windows: Sequence[Hashable]) -> list[WindowFeatures]:
        """The features of all of these windows, or none."""
        with self._lock:
            kept = self._volumes.setdefault(volume, {})
            self._volumes.move_to_end(volume)
            return [kept[window] for window in windows] if kept.keys() >= set(windows) else []

    def _put(self, volume: Hashable, window: Hashable, features: WindowFeatures) -> None:
        """Keep the features of a window if they fit, after dropping the least recently used other volumes."""
        size = features.nbytes
        with self._lock:
            windows = self._volumes.setdefault(volume, {})
            self._volumes.move_to_end(volume)
            if window in windows:
                return
            while self.used + size > self.limit and len(self._volumes) > 1:
                _, dropped = self._volumes.popitem(last=False)
                self.used -= sum(each.nbytes for each in dropped.values())
            if self.used + size <= self.limit:
                windows[window] = features
                self.used += size


def _to_half(tensor: torch.Tensor) -> torch.Tensor:
    """In half precision, unless its values are too large for float16."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor


def _as_kind(kind: type[Any], tensors: Sequence[torch.Tensor]) -> Any:
    """Features in the network's own type: a tensor, a tuple or a named tuple."""
    if issubclass(kind, torch.Tensor):
        return tensors[0]
    return kind(*tensors) if hasattr(kind, "_fields") else kind(tensors)
