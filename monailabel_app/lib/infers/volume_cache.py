"""Volumes that were read and preprocessed, kept for the next prompt on the same image."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from monai.data import MetaTensor

Key = tuple[str, str, int, int]


class VolumeCache:
    """The most recently used volumes, up to a limit in bytes; concurrent requests prepare a volume once.

    Volumes of deleted files, such as uploads, are dropped first.

    Args:
        limit: bytes of voxels kept; the newest volume is kept only if it fits.
    """

    def __init__(self, *, limit: int) -> None:
        self.limit = limit
        self._volumes: OrderedDict[Key, MetaTensor] = OrderedDict()
        self._preparing: dict[Key, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, path: str | Path, *, settings: str, prepare: Callable[[str], MetaTensor]) -> MetaTensor:
        """The prepared volume (C, H, W, D) of a file; not to be changed.

        Args:
            path: a file; when it changes on disk it is prepared again.
            settings: identify how ``prepare`` reads the file; volumes of different settings are different.
            prepare: reads and preprocesses a file.
        """
        status = Path(path).stat()
        key = (settings, str(path), status.st_mtime_ns, status.st_size)
        with self._lock:
            preparing = self._preparing.setdefault(key, threading.Lock())
        with preparing:
            try:
                with self._lock:
                    if key in self._volumes:
                        self._volumes.move_to_end(key)
                        return self._volumes[key]
                volume = prepare(str(path))
                with self._lock:
                    for deleted in [key for key in self._volumes if not Path(key[1]).exists()]:
                        del self._volumes[deleted]
                    self._volumes[key] = volume
                    while sum(kept.nbytes for kept in self._volumes.values()) > self.limit:
                        self._volumes.popitem(last=False)
                return volume
            finally:
                with self._lock:
                    self._preparing.pop(key, None)
