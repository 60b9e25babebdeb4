"""Checks before large allocations, and errors that mean that memory has run out."""

import errno

import torch

from custom.utils.allocator import available_memory, release_memory

#: In messages of torch when the system, or oneDNN, has no memory left.
_MESSAGES = (
    *("can't allocate memory", "not enough memory", "out of memory", "bad_alloc"),
    *("create a memory object", "ALLOC_FAILED"),
)


class NotEnoughMemory(MemoryError):
    """Not enough memory for an image; the message says what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, of a GPU or the system, has run out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def check_available(needed: int, what: str) -> None:
    """Refuse an allocation that exceeds the available memory, for which the system would kill a process.

    Args:
        needed: bytes.
        what: what they are for.

    Raises:
        NotEnoughMemory: the message says what to do.
    """
    free = available_memory()
    if free is not None and needed > free:
        release_memory()  # kept for reuse
        free = available_memory()
    if free is not None and needed > free:
        raise NotEnoughMemory(
            f"There must be {needed / 2**30:.1f} GiB of memory for {what}, and {free / 2**30:.1f} GiB are free. "
            "Request fewer classes at once, close other programs, or take a machine with more memory."
        )
