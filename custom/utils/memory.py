"""Whether memory is there, and whether an error says that it is not."""

import errno

import torch

from custom.utils.allocator import available_memory, release_memory

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
        release_memory()  # of the windows before
        free = available_memory()
    if free is not None and needed > free:
        raise NotEnoughMemory(
            f"There must be {needed / 2**30:.1f} GiB of memory for {what}, and {free / 2**30:.1f} GiB are free. Ask "
            "for fewer classes at once, close other programs, or take a machine with more memory."
        )
