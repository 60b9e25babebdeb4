"""How many windows fit in memory, and what to do when they do not."""

import errno
from collections.abc import Sequence

import torch

from custom.memory import available_memory, give_back

#: Most windows per network call: beyond, a GPU is busy anyway.
MOST = 8

#: Most GiB of encoded windows, unless more are asked for: some fifty of 96x96x96 voxels at feature size 48.
CACHE = 8.0

#: What torch says when the system, or oneDNN, gives it no memory.
_WORDS = (
    *("can't allocate memory", "not enough memory", "out of memory", "bad_alloc"),
    *("create a memory object", "ALLOC_FAILED"),
)


class NotEnoughMemory(MemoryError):
    """There is not enough memory for an image; the message says what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of a GPU or the system, has run out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def fitting_batch(device: torch.device, *, taken_by_one: int) -> int:
    """How many windows go together: on a GPU as many as half of its free memory holds, at most ``MOST``.

    Args:
        device: where the network computes. On a CPU windows go one by one, for more gain nothing.
        taken_by_one: bytes that one window took at most.
    """
    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # which torch keeps for itself
    return max(1, min(MOST, free // 2 // max(taken_by_one, 1)))


def fitting_cache(prompts: Sequence[str] | None) -> float:
    """How many GiB encoded windows may take: for several prompts half of what is free, at most ``CACHE``, else none."""
    if not prompts:
        return 0.0
    free = available_memory()
    return CACHE if free is None else min(CACHE, free / 2**31)


def check_available(needed: int, what: str) -> None:
    """Refuse to take main memory that is not there: the system would end this process, or another, without a word.

    Args:
        needed: bytes.
        what: is to be kept in them.

    Raises:
        NotEnoughMemory: the message says what to do.
    """
    free = available_memory()
    if free is not None and needed > free:
        give_back()  # of the windows before
        free = available_memory()
    if free is not None and needed > free:
        raise NotEnoughMemory(
            f"There must be {needed / 2**30:.1f} GiB of memory for {what}, and {free / 2**30:.1f} GiB are free. Ask "
            "for fewer classes at once, close other programs, or take a machine with more memory."
        )


def out_of_memory(roi_size: Sequence[int], device: torch.device) -> NotEnoughMemory:
    """The error that says that not even one window fits."""
    sides = " x ".join(map(str, roi_size))
    other = "a larger GPU, or --device cpu" if device.type == "cuda" else "a machine with more memory"
    return NotEnoughMemory(
        f"There must be memory for one window of {sides} voxels on {device}, and there is not. Close other programs, "
        f"or take {other}."
    )
