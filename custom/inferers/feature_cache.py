"""What the encoder made of windows, kept for the next prompt on the same image."""

import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from custom.inferers.protocols import PromptedNetwork, TwoStageNetwork

#: How many tensors ``TwoStageNetwork.encode_high_res`` returns.
FINE = 2


class Kept(NamedTuple):
    """The features of a window.

    Args:
        halves: in half precision; without the fine ones where ``low_res_only``.
        dtypes: in which they are decoded.
        kind: the type that the network returns them in.
        thin: whether the fine ones must be computed.
    """

    halves: tuple[torch.Tensor, ...]
    dtypes: tuple[torch.dtype, ...]
    kind: type[Any]
    low_res_only: bool

    @property
    def nbytes(self) -> int:
        return sum(half.nbytes for half in self.halves)


class FeatureCache:
    """Features of the windows of the most recently asked volumes, in half precision in main memory.

    A volume whose features would not all fit keeps those that are costly to compute and small, where its network tells
    them apart (``TwoStageNetwork``): a thirteenth of the memory, for three fifths of the gain. What fits even so is
    kept, the rest computed anew. Volumes are known by their voxels, whatever file they came from.

    With a cache, whatever is decoded has been rounded to half precision, the first time too: an answer does not depend
    on what was asked before.

    Args:
        gib: most memory to take, GiB; with 0 nothing is kept and nothing rounded.

    Raises:
        ValueError: a negative limit.
    """

    def __init__(self, *, gib: float) -> None:
        if not gib >= 0:
            raise ValueError(f"A cache of features must have at least 0 GiB, not {gib}.")
        self.limit = int(gib * 2**30)
        self._volumes: OrderedDict[Hashable, dict[Hashable, Kept]] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()
        self._networks: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._count = itertools.count()

    def __deepcopy__(self, memo: Any) -> "FeatureCache":
        return self  # copies of an inferer share it

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return self._used

    def volume(self, image: torch.Tensor, network: PromptedNetwork, *recipe: Hashable) -> "CachedVolume":
        """The features of one volume (1, C, H, W, D), of a network as it is now.

        Args:
            image: known by its voxels.
            network: known as an object, and by how often its parameters have changed.
            recipe: what else the features depend on.
        """
        if not self.limit:
            return CachedVolume(self, None)
        with self._lock:
            number = self._networks.setdefault(network, next(self._count))
        changes = sum(0 if p.is_inference() else p._version for p in getattr(network, "parameters", tuple)())
        voxels = hashlib.blake2b(image.detach().cpu().contiguous().numpy().data, digest_size=16).digest()
        return CachedVolume(self, (number, changes, voxels, tuple(image.shape), *recipe))

    def find(self, volume: Hashable, window: Hashable) -> Kept | None:
        """The features of a window, if they are kept."""
        with self._lock:
            if volume not in self._volumes:
                return None
            self._volumes.move_to_end(volume)
            return self._volumes[volume].get(window)

    def keep(self, volume: Hashable, window: Hashable, features: Kept) -> None:
        """Keep the features of a window if they fit, forgetting those of other volumes that were asked longer ago."""
        size = features.nbytes
        with self._lock:
            held = self._volumes.setdefault(volume, {})
            self._volumes.move_to_end(volume)
            if window in held:
                return
            while self._used + size > self.limit and len(self._volumes) > 1:
                _, gone = self._volumes.popitem(last=False)
                self._used -= sum(kept.nbytes for kept in gone.values())
            if self._used + size <= self.limit:
                held[window] = features
                self._used += size


class CachedVolume:
    """The features of the windows of one volume.

    Args:
        cache: where they are kept.
        key: of the volume; None keeps nothing.
    """

    def __init__(self, cache: FeatureCache, key: Hashable) -> None:
        self.cache = cache
        self.key = key
        self._low_res_only: bool | None = None  # until the first window's size is known

    def encode(self, network: PromptedNetwork, windows: torch.Tensor, names: Sequence[Hashable], *, total: int) -> Any:
        """What ``network.encode(windows)`` returns, computed or found.

        Args:
            network: as it was given to ``FeatureCache.volume``.
            windows: (B, C, h, w, d).
            names: of the B windows, in this volume.
            total: how many windows the volume has.
        """
        if self.key is None:
            return network.encode(windows)
        found = [self.cache.find(self.key, name) for name in names]
        held = [kept for kept in found if kept is not None]
        if len(held) == len(names):
            parts = [  # autocast to bfloat16 cannot join float16
                torch.cat([half.to(windows.device).to(dtype) for half in halves])
                for halves, dtype in zip(zip(*(kept.halves for kept in held), strict=True), held[0].dtypes, strict=True)
            ]
            fine = (
                network.encode_high_res(windows)
                if held[0].low_res_only and isinstance(network, TwoStageNetwork)
                else ()
            )
            return _assemble(held[0].kind, [*fine, *parts])
        features = network.encode(windows)
        tensors = [features] if isinstance(features, torch.Tensor) else list(features)
        if self._low_res_only is None:
            needed = sum(tensor.numel() for tensor in tensors) * 2 // len(names) * total
            self._low_res_only = isinstance(network, TwoStageNetwork) and needed > self.cache.limit
        fine, deep = (tensors[:FINE], tensors[FINE:]) if self._low_res_only else ([], tensors)
        halves = [_half(tensor) for tensor in deep]
        dtypes = tuple(tensor.dtype for tensor in deep)
        for i, name in enumerate(names):
            own = tuple(half[i : i + 1].cpu().clone() for half in halves)
            self.cache.keep(self.key, name, Kept(own, dtypes, type(features), low_res_only=self._low_res_only))
        rounded = [half.to(dtype) for half, dtype in zip(halves, dtypes, strict=True)]
        return _assemble(type(features), [*fine, *rounded])


def _half(tensor: torch.Tensor) -> torch.Tensor:
    """In half precision, unless values are too large for it."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor


def _assemble(kind: type[Any], tensors: Sequence[torch.Tensor]) -> Any:
    """Features as the network made them: a tensor, a tuple or a named tuple."""
    if issubclass(kind, torch.Tensor):
        return tensors[0]
    return kind(*tensors) if hasattr(kind, "_fields") else kind(tensors)
