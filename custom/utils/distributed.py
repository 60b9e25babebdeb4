"""Several processes that train or evaluate together, as torchrun starts them; alone, all of this does nothing."""

import logging
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from monai.utils import set_determinism

T = TypeVar("T")


class Record(Protocol):
    """Something found out about a case; it must pickle."""

    @property
    def case(self) -> str:
        """Path of the case's image."""


AnyRecord = TypeVar("AnyRecord", bound=Record)

#: Seeds of processes lie this far apart, so that a resumed process does not draw what another one drew.
SEED_STRIDE = 100_003


def join_processes(device: str | torch.device, *, patience_hours: float = 2) -> None:
    """Join the processes of this run, over NCCL on GPUs and Gloo on CPUs; all but the first fall silent up to errors.

    ``leave_processes`` leaves them at the end of the run. A process that fails must not: over NCCL it would wait for
    the others, who wait for it. It just ends, and torchrun ends the others.

    Args:
        device: of this process.
        patience_hours: how long it waits for the others: one may still fill its cache, or validate a large volume. In
            inference the first to have answered its share waits for the last.

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
    if not is_first():
        logging.disable(logging.WARNING)


def leave_processes() -> None:
    """Leave the processes of this run, if it has joined any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def local_device() -> torch.device:
    """The GPU of this process, by its place on its machine; the CPU where torch sees no GPU.

    Raises:
        ValueError: more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= gpus:
        raise ValueError(
            f"--nproc_per_node must be at most the {gpus} GPUs that torch sees here; this is process {place}."
        )
    return torch.device("cuda", place)


def rank() -> int:
    """Which of the processes this is: 0 is the first, which alone writes and reports."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes and reports."""
    return rank() == 0


def seed_process(seed: int) -> None:
    """Make this process reproducible; each of several draws its own crops and prompts."""
    set_determinism(seed=(seed + SEED_STRIDE * rank()) % 2**32)


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, without gradient."""
    result = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(result)
    return result


def gather(value: T) -> list[T]:
    """A picklable value of every process, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_cases(items: Sequence[AnyRecord]) -> list[AnyRecord]:
    """What all processes found out about their cases, in the order in which one process would have.

    Cases are dealt out in turn, as ``DistributedSampler`` does without shuffling: process r of W has the cases r,
    r + W, ... Where they do not divide evenly some are dealt twice; each counts once.

    Args:
        items: of this process, case by case.
    """
    if world_size() == 1:
        return list(items)
    own: dict[str, list[AnyRecord]] = {}
    for item in items:
        own.setdefault(item.case, []).append(item)
    shares = gather(list(own.items()))
    merged: dict[str, list[AnyRecord]] = {}
    for turn in range(max(map(len, shares))):
        for share in shares:
            if turn < len(share):
                merged.setdefault(*share[turn])
    return [item for found in merged.values() for item in found]
