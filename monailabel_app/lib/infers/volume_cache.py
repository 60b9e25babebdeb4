"""Volumes that were read and preprocessed, kept for the next prompt on the same image."""

import threading
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

from cachetools import LRUCache, cached
from monai.data import MetaTensor


class VolumeCache(LRUCache[tuple[Any, ...], MetaTensor]):
    """The most recently used volumes, of ``limit`` bytes in all; concurrent requests prepare a volume once.

    Volumes of deleted files, such as uploads, are dropped first; one larger than the limit is not kept.
    """

    def __init__(self, *, limit: int) -> None:
        super().__init__(limit, getsizeof=attrgetter("nbytes"))
        once = cached(self, condition=threading.Condition())
        self._prepared = once(lambda path, changed, size, prepare: prepare(path))

    def __setitem__(self, key: tuple[Any, ...], volume: MetaTensor) -> None:
        for deleted in [other for other in self if not Path(other[0]).exists()]:
            del self[deleted]
        super().__setitem__(key, volume)

    def prepared(self, path: str | Path, prepare: Callable[[str], MetaTensor]) -> MetaTensor:
        """The volume (C, H, W, D) that ``prepare`` makes of a file, anew when it has changed; not to be changed."""
        status = Path(path).stat()
        return self._prepared(str(path), status.st_mtime_ns, status.st_size, prepare)
