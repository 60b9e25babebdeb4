"""Memory of a process: what is left, what a network keeps while it works on a CPU, and errors that mean there is none.

The C library of Linux returns every freed tensor to the system, which must clear and map the same pages again for the
next one: measured on two cores, a third of a network's time. Configured to keep freed memory, it reuses it.
"""

import ctypes
import errno
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX = -4, -1, -8  # of mallopt(3)
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
_DEFAULT = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 128 * 1024}
_CONTROL_GROUP = Path("/sys/fs/cgroup")
_lock = threading.RLock()  # reentrant: garbage collection may close a generator while it is held
_users = 0

#: In messages of torch when the system, or oneDNN, has no memory left.
_MESSAGES = (
    *("can't allocate memory", "not enough memory", "out of memory", "bad_alloc"),
    *("create a memory object", "ALLOC_FAILED"),
)


class NotEnoughMemory(MemoryError):
    """Not enough memory for an image; the message says what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, of a GPU or the system, has run out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def check_available(needed: int, what: str, *, remedy: str = "Request fewer classes at once, close") -> None:
    """Raise ``NotEnoughMemory`` where ``needed`` bytes are not available: the system would kill the process."""
    free = available_memory()
    if free is not None and needed > free:
        release_memory()  # kept for reuse
        free = available_memory()
    if free is not None and needed > free:
        raise NotEnoughMemory(
            f"There must be {needed / 2**30:.1f} GiB of memory for {what}, and {free / 2**30:.1f} GiB are free. "
            f"{remedy} other programs, or take a machine with more memory."
        )


def available_memory() -> int | None:
    """Bytes that this process may still allocate without swapping; None where it is unknown (all but Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        [line] = [line for line in lines if line.startswith("MemAvailable:")]
        available = int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    with suppress(OSError, ValueError):  # the limit of a container, unless it is "max"
        limit, used = ((_CONTROL_GROUP / f"memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        available = min(available, max(0, int(limit) - int(used)))
    return available


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """With glibc, keep freed memory for reuse until the last thread leaves this context, then return it."""
    global _users
    with _lock:
        _users += 1
        _configure(_KEEP)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _configure(_DEFAULT)
                release_memory()


def release_memory() -> None:
    """Return memory that is kept but not in use to the system."""
    if (library := _library()) is not None:
        library.malloc_trim(0)


def share_memory_between_threads() -> None:
    """Let threads started from now on use the main thread's heap; memory of other heaps is not kept."""
    _configure({_ARENA_MAX: 1})


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The C library if it is glibc, else None."""
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def _configure(options: dict[int, int]) -> None:
    if (library := _library()) is not None:
        for option, value in options.items():
            library.mallopt(option, value)
