"""How many windows fit in memory, and what to do when they do not."""

from collections.abc import Sequence

import torch

from custom.utils.allocator import available_memory
from custom.utils.memory import NotEnoughMemory

#: Most windows per network call: beyond, a GPU is busy anyway.
MOST = 8

#: Most GiB of encoded windows, unless more are asked for: some fifty of 96x96x96 voxels at feature size 48.
CACHE = 8.0


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


def out_of_memory(roi_size: Sequence[int], device: torch.device) -> NotEnoughMemory:
    """The error that says that not even one window fits."""
    sides = " x ".join(map(str, roi_size))
    other = "a larger GPU, or --device cpu" if device.type == "cuda" else "a machine with more memory"
    return NotEnoughMemory(
        f"There must be memory for one window of {sides} voxels on {device}, and there is not. Close other programs, "
        f"or take {other}."
    )
