"""The memory of a process that computes on a CPU: kept while it works, given back when it rests.

The C library of Linux hands every freed tensor back to the system, which must clear and map the same pages again for
the next one: measured on two cores, a third of a network's time. Told to keep what is freed, it reuses it.
"""

import ctypes
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX = -4, -1, -8  # of mallopt(3)
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
_USUAL = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 128 * 1024}
_CONTROL_GROUP = Path("/sys/fs/cgroup")
_lock = threading.RLock()  # a generator may be closed inside
_users = 0


def available_memory() -> int | None:
    """The bytes that this process may still take without making others suffer; None where it cannot be told (Linux)."""
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
        [line] = [line for line in told.splitlines() if line.startswith("MemAvailable:")]
        most = int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    try:  # of a container
        limit, used = ((_CONTROL_GROUP / f"memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        return most if limit.strip() == "max" else min(most, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        return most


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory for what comes next, as long as anybody is in this context; then give it back to the system.

    Elsewhere than on Linux with glibc nothing happens.
    """
    global _users
    with _lock:
        _users += 1
        _set(_KEEPING)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _set(_USUAL)
                release_memory()


def release_memory() -> None:
    """Give the system back what is kept and not in use."""
    if (library := _library()) is not None:
        library.malloc_trim(0)


def share_memory_between_threads() -> None:
    """Let threads that start from now on take memory where the main thread does: else theirs is not kept."""
    _set({_ARENA_MAX: 1})


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The C library, where it is glibc."""
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def _set(options: dict[int, int]) -> None:
    library = _library()
    if library is not None:
        for option, value in options.items():
            library.mallopt(option, value)
