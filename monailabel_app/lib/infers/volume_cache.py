"""Volumes that were read and prepared, kept for the next prompt on the same image."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from monai.data import MetaTensor

Key = tuple[str, str, int, int]


class VolumeCache:
    """The most recently used volumes, up to a limit in bytes; each is prepared once, whoever asks for it.

    Volumes of files that are gone, such as uploads, are dropped first.

    Args:
        limit: bytes of voxels kept; the newest volume is kept only if it fits.
    """

    def __init__(self, *, limit: int) -> None:
        self.limit = limit
        self._held: OrderedDict[Key, MetaTensor] = OrderedDict()
        self._busy: dict[Key, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, path: str | Path, *, recipe: str, prepare: Callable[[str], MetaTensor]) -> MetaTensor:
        """The prepared volume (C, H, W, D) of a file; not to be changed.

        Args:
            path: a file; when it changes on disk it is prepared again.
            recipe: names the preparation; volumes of different recipes are different.
            prepare: reads and prepares a file.
        """
        status = Path(path).stat()
        key = (recipe, str(path), status.st_mtime_ns, status.st_size)
        with self._lock:
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:
            with self._lock:
                if key in self._held:
                    self._busy.pop(key, None)
                    self._held.move_to_end(key)
                    return self._held[key]
            try:
                volume = prepare(str(path))
            finally:
                with self._lock:
                    self._busy.pop(key, None)
            with self._lock:
                for gone in [key for key in self._held if not Path(key[1]).exists()]:
                    del self._held[gone]
                self._held[key] = volume
                while sum(held.nbytes for held in self._held.values()) > self.limit:
                    self._held.popitem(last=False)
        return volume
