"""Several processes that train, evaluate or infer together, as torchrun starts them; in a single one nothing happens.

Ranks, numbers of processes and collectives are those of ``ignite.distributed``.
"""

import logging
import os
from collections.abc import Sequence
from datetime import timedelta
from itertools import zip_longest
from typing import Any, Protocol, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from monai.utils import set_determinism


class Record(Protocol):
    """A result for one case; it must pickle."""

    @property
    def case(self) -> str:
        """Path of the case's image."""


AnyRecord = TypeVar("AnyRecord", bound=Record)

#: Distance between the seeds of two processes, so that a resumed process does not repeat the draws of another.
SEED_STRIDE = 100_003


def join_processes(device: str | torch.device, *, patience_hours: float = 2) -> None:
    """Join the processes of this run, over NCCL on GPUs and Gloo on CPUs; all but the first log errors only.

    ``leave_processes`` leaves them at the end of the run. A process that fails must not call it: over NCCL it would
    wait for the others, which wait for it. It just ends, and torchrun ends the others.

    Args:
        device: of this process.
        patience_hours: how long it waits for the others, one of which may still fill its cache, validate a large
            volume, or segment the last of its images.

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
    """The GPU whose number is this process's local rank; the CPU where torch sees no GPU.

    Raises:
        ValueError: more processes than GPUs.
    """
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
    set_determinism(seed=(seed + SEED_STRIDE * idist.get_rank()) % 2**32)


def gather_cases(items: Sequence[AnyRecord]) -> list[AnyRecord]:
    """The results of all processes, in the order in which a single process would have them.

    Cases are dealt out in turn, as ``DistributedSampler`` does without shuffling: process r of W has the cases r,
    r + W, ... Where they do not divide evenly some are dealt twice; each counts once.

    Args:
        items: of this process, case by case.
    """
    own: dict[str, list[AnyRecord]] = {}
    for item in items:
        own.setdefault(item.case, []).append(item)
    per_process: Any = idist.all_gather(list(own.items()))
    merged: dict[str, list[AnyRecord]] = {}
    for turn in zip_longest(*per_process):
        for case in filter(None, turn):
            merged.setdefault(*case)
    return [item for results in merged.values() for item in results]
