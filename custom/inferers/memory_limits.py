"""How many windows fit in memory."""

from collections.abc import Sequence

import torch

from custom.utils.allocator import available_memory

#: Most windows per network call; more do not make a GPU faster.
MAX_BATCH = 8

#: Default limit in GiB for encoded windows: some fifty of 96x96x96 voxels at feature size 48.
MAX_CACHE_GIB = 8.0


def fitting_batch(device: torch.device, *, window_bytes: int) -> int:
    """Windows per network call: on a GPU as many as half of its free memory holds, at most ``MAX_BATCH``; on a CPU one.

    Args:
        device: where the network computes.
        window_bytes: peak memory of one window.
    """
    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own free memory
    return max(1, min(MAX_BATCH, free // 2 // max(window_bytes, 1)))


def fitting_cache(prompts: Sequence[str] | None) -> float:
    """GiB for encoded windows: for several prompts half of the free memory, at most ``MAX_CACHE_GIB``; else 0."""
    if not prompts:
        return 0.0
    free = available_memory()
    return MAX_CACHE_GIB if free is None else min(MAX_CACHE_GIB, free / 2**31)
