"""Sampling of the training cases."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from torch.utils.data import Sampler


class CaseSampler(Sampler[int]):
    """Draws as many cases as there are, equally many of every data set; several processes divide them.

    With ``sampling="datasets"`` each of D data sets contributes a D-th of the cases: those of a small one are repeated,
    and some of a large one left out. Within a data set they are in random order, each before any is repeated. A single
    data set is shuffled, and so are all together with ``sampling="cases"``.

    All processes draw the same cases from one seed and then take their part. (Ignite's ``DistributedProxySampler`` does
    so around any sampler, but reseeds torch's global generator with the same number in every process; MONAI's
    ``DistributedWeightedRandomSampler`` divides the cases first and may lose a small data set.)
    """

    def __init__(self, cases: Sequence[Mapping[str, Any]], *, sampling: str = "datasets", seed: int = 0) -> None:
        if sampling not in ("datasets", "cases"):
            raise ValueError(f"--train::sampling must be one of ['datasets', 'cases'], not {sampling!r}.")
        groups: dict[Any, list[int]] = {}
        for index, case in enumerate(cases):
            groups.setdefault(case.get("dataset") if sampling == "datasets" else None, []).append(index)
        self.groups = [torch.tensor(group) for group in groups.values()]
        self.count: int = -(-len(cases) // idist.get_world_size())
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)

    def set_epoch(self, epoch: int) -> None:
        """Reseed with the epoch, so that a resumed training does not repeat its draws."""
        self.generator.manual_seed(self.seed + epoch)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        draws = self.count * idist.get_world_size()
        drawn = []
        for position, group in enumerate(self._shuffled(len(self.groups)).tolist()):
            cases = self.groups[group]
            wanted = draws // len(self.groups) + (position < draws % len(self.groups))
            rounds = [cases[self._shuffled(len(cases))] for _ in range(-(-wanted // len(cases)))]
            drawn.append(torch.cat(rounds)[:wanted] if rounds else cases[:0])
        order = torch.cat(drawn)[self._shuffled(draws)]
        return iter(order[idist.get_rank() :: idist.get_world_size()].tolist())

    def _shuffled(self, count: int) -> torch.Tensor:
        return torch.randperm(count, generator=self.generator)
