"""Several processes that train, evaluate or infer together, as torchrun starts them; in a single one nothing happens.

Ranks, numbers of processes and collectives are those of ``ignite.distributed``.
"""

import logging
import os
from collections.abc import Sequence
from datetime import timedelta
from itertools import chain, zip_longest
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from monai.utils import set_determinism


def join_processes(device: str | torch.device, *, patience_hours: float = 2) -> None:
    """Join the processes of this run, over NCCL on GPUs and Gloo on CPUs; all but the first log errors only.

    ``leave_processes`` leaves them at the end of the run. A process that fails must not call it: over NCCL it would
    wait for the others, which wait for it. It just ends, and torchrun ends the others. ``patience_hours`` is how long
    one waits for another that still fills its cache, validates a large volume, or segments the last of its images.

    Raises:
        ValueError: the process was not started by torchrun.
    """
    if "LOCAL_RANK" not in os.environ:
        raise ValueError(
            "The multi_gpu configs are for several processes: start them with torchrun --standalone "
            "--nproc_per_node=<GPUs> -m monai.bundle run ..., or leave them out of --config_file."
        )
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=patience_hours))
    if "SLURM_JOB_ID" in os.environ:  # where Ignite takes SLURM's local rank, which is that of torchrun
        os.environ["SLURM_LOCALID"] = os.environ["LOCAL_RANK"]
    idist.sync()  # collective, so here rather than in whichever process needs its rank first
    if idist.get_rank() > 0:
        logging.disable(logging.WARNING)


def leave_processes() -> None:
    """Leave the processes of this run, if it has joined any."""
    idist.finalize()


def local_device() -> torch.device:
    """The GPU of this process's local rank (ValueError: more processes than GPUs); the CPU where torch sees no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= gpus:
        raise ValueError(
            f"--nproc_per_node must be at most the {gpus} GPUs that torch sees here; this is process {local_rank}."
        )
    return torch.device("cuda", local_rank)


def seed_process(seed: int) -> None:
    """Make this process reproducible; each of several draws its own crops and prompts."""
    # Seeds lie far apart, so that a process that resumes does not repeat the draws of another.
    set_determinism(seed=(seed + 100_003 * idist.get_rank()) % 2**32)


def gather_cases(items: Sequence[Any]) -> list[Any]:
    """The results of all processes, in the order in which a single process would have them.

    Cases are dealt out in turn, as ``DistributedSampler`` does without shuffling: process r of W has the cases r,
    r + W, ... Where they do not divide evenly some are dealt twice; each counts once.

    Args:
        items: of this process, case by case; each pickles, and its ``case`` is the path of the case's image.
    """
    own: dict[str, list[Any]] = {}
    for item in items:
        own.setdefault(item.case, []).append(item)
    per_process: Any = idist.all_gather(list(own.items()))
    merged: dict[str, list[Any]] = {}
    for case, results in filter(None, chain.from_iterable(zip_longest(*per_process))):
        merged.setdefault(case, results)
    return list(chain.from_iterable(merged.values()))
