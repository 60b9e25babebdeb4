"""Two real processes over Gloo against one: gradients, draws, gathered results, and how a failure ends.

Run by torchrun, this file is the program of those processes: each writes its results to ``<folder>/<rank>.pt``.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from custom.datasets.labels import UNKNOWN
from custom.datasets.samplers import CaseSampler
from custom.losses.partial_label import PartialLabelLoss
from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.networks.swin_unetr import SwinUNETR
from custom.networks.unetr import UNETR
from custom.networks.universal_swin_unetr import UniversalSwinUNETR
from custom.utils.distributed import gather_cases, join_processes, seed_process
from tests.helpers import ROOT
from tests.helpers.warm_python import start_two

CASES = [{"dataset": key} for key, size in {"01": 3, "04": 40, "05": 57, "12": 10}.items() for _ in range(size)]
LOSSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "present": {"dice_of_empty": False},
    "balanced": {"bce_weight": 3.0, "bce_balance": 0.5},
}
#: Labelled channels of the two samples of the first and of the second process, of three.
LABELLED: dict[str, Sequence[Sequence[Sequence[int]]]] = {
    "uneven": ([[0, 1, 2], [1]], [[2], [0]]),
    "one has none": ([[], []], [[0, 2], [1]]),
    "none": ([[]] * 2,) * 2,
}


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.GELU(), nn.Conv3d(4, 3, 1))


def film(variant: str, *, use_checkpoint: bool = False) -> nn.Module:
    return FiLMSwinUNETR(1, 3, 12, 8, variant, default_text=torch.ones(8), window_size=4, use_checkpoint=use_checkpoint)


def universal() -> nn.Module:
    return UniversalSwinUNETR(1, 3, 12, 8, text_bank=torch.eye(3, 8), window_size=4)


def unetr() -> nn.Module:
    return UNETR(1, 3, (32, 32, 32), feature_size=4, hidden_size=12, num_heads=2)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "small": (small_network, (8, 8, 8)),
    "film": (partial(film, "film"), (64, 32, 32)),
    "film, checkpointing": (partial(film, "film", use_checkpoint=True), (64, 32, 32)),
    "film2": (partial(film, "film2"), (64, 32, 32)),
    "swinunetr": (lambda: SwinUNETR(1, 3, 12, window_size=4), (64, 32, 32)),
    "universal": (universal, (64, 32, 32)),
    "unetr": (unetr, (32, 32, 32)),
}
TRIALS = [("small", loss, labels) for loss in LOSSES for labels in LABELLED]
TRIALS += [("film", "plain", "one has none"), ("film, checkpointing", "plain", "one has none")]
TRIALS += [(network, "plain", "uneven") for network in ("film2", "swinunetr", "unetr", "universal")]


def batch(shape: Sequence[int], labelled: Sequence[Sequence[int]], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(labelled), 1, *shape, generator=generator)
    target = (torch.rand(len(labelled), 3, *shape, generator=generator) < 0.2).to(torch.int8)
    target[:, 1] *= seed % 2  # a class that one process never sees
    for sample, channels in enumerate(labelled):
        target[sample, [channel for channel in range(3) if channel not in channels]] = UNKNOWN
    return images, target


def gradients(network: nn.Module, loss: str, images: torch.Tensor, target: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Loss and all gradients of the second of two steps, in which DDP would complain of unused parameters."""
    for _ in range(2):
        network.zero_grad()
        value = PartialLabelLoss(**LOSSES[loss])(network(images), target)
        value.backward()
    return value.item(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


class Result(NamedTuple):
    case: str
    prompt: int


def work(folder: Path) -> None:
    join_processes("cpu")
    rank = idist.get_rank()
    seed_process(0)
    got: dict[str, Any] = {"seed": torch.initial_seed()}
    for network, loss, labels in TRIALS:
        make, shape = NETWORKS[network]
        torch.manual_seed(rank)  # the first process's parameters are everyone's
        parallel = DistributedDataParallel(make(), forward_sync_buffers=False)
        got[f"{network}, {loss}, {labels}"] = gradients(parallel, loss, *batch(shape, LABELLED[labels][rank], rank))
    sampler = CaseSampler(CASES, seed=1)
    got["drawn"] = [list(sampler) for _ in range(3)]
    results = [Result(f"case {case}", prompt) for case in ((0, 2, 4) if rank == 0 else (1, 3, 0)) for prompt in (0, 1)]
    got["gathered"] = [tuple(result) for result in gather_cases(results)]
    torch.save(got, folder / f"{rank}.pt")


FAILS = """
import os, sys
from pathlib import Path
import ignite.distributed as idist
from custom.utils.distributed import join_processes

join_processes("cpu")
Path(sys.argv[1], f"{os.getpid()}.pid").touch()
if idist.get_rank() == 1:
    raise ValueError("mine")
idist.barrier()
"""


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "1"}  # as in a shell of salloc
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def got(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results of both processes."""
    folder = tmp_path_factory.mktemp("two")
    first, second = start_two(__file__, folder)
    with first, second:
        for process in (first, second):
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
    return [torch.load(folder / f"{process}.pt") for process in (0, 1)]


@pytest.mark.parametrize(("network", "loss", "labels"), TRIALS)
def test_gradients_are_those_of_one_process_on_the_joined_batch(
    got: list[dict[str, Any]], network: str, loss: str, labels: str
) -> None:
    make, shape = NETWORKS[network]
    torch.manual_seed(0)
    parts = [batch(shape, LABELLED[labels][process], process) for process in (0, 1)]
    value, wanted = gradients(make(), loss, *(torch.cat(pair) for pair in zip(*parts, strict=True)))
    (first, one), (second, other) = (process[f"{network}, {loss}, {labels}"] for process in got)
    assert torch.equal(one, other)
    assert (first + second) / 2 == pytest.approx(value, abs=1e-5)
    assert bool(wanted.any()) is (labels != "none")
    assert (one - wanted).abs().max() <= 1e-5 * max(1, wanted.abs().max().item())


def test_the_processes_draws_joined_are_uniform_over_data_sets(got: list[dict[str, Any]]) -> None:
    for epoch in range(3):
        shares = [process["drawn"][epoch] for process in got]
        times = Counter(CASES[index]["dataset"] for share in shares for index in share)
        assert len(shares[0]) == len(shares[1]) == len(CASES) // 2
        assert all(abs(times[key] / times.total() - 1 / 4) <= 0.05 / 4 for key in ("01", "04", "05", "12"))
    assert got[0]["drawn"][0] != got[0]["drawn"][1]
    assert got[0]["seed"] != got[1]["seed"]


def test_gathered_results_are_in_order_and_unique(got: list[dict[str, Any]]) -> None:
    wanted = [(f"case {case}", prompt) for case in range(5) for prompt in (0, 1)]
    assert [process["gathered"] for process in got] == [wanted, wanted]


def test_where_one_process_fails_all_end(tmp_path: Path) -> None:
    program = tmp_path / "fails.py"
    program.write_text(FAILS)
    start = time.monotonic()
    result = launch(str(program), str(tmp_path))
    assert result.returncode != 0
    assert "ValueError: mine" in result.stderr
    assert time.monotonic() - start < 120
    processes = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(processes) == 2
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_several_processes_need_torchrun() -> None:
    with pytest.raises(ValueError, match="start them with torchrun"):
        join_processes("cpu")


if __name__ == "__main__":
    work(Path(sys.argv[1]))
