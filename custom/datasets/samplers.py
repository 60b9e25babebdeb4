"""Which cases a training sees, and how often."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from custom.utils.distributed import rank, world_size

#: What is drawn alike.
SAMPLING = ("datasets", "cases")


class CaseSampler(Sampler[int]):
    """Draws as many cases as there are, from every data set alike; one of several processes gets its share of the draw.

    With ``sampling="datasets"`` each of D data sets gives a D-th of the cases: those of a small one come several times,
    of a large one some are left out. Within a data set they come in random order, each before any comes again. One data
    set alone is shuffled, and so are all together with ``sampling="cases"``.

    All processes draw from one seed, so the draw is one over all data sets; it is cut into shares afterwards. (Ignite's
    ``DistributedProxySampler`` does that around any sampler, but reseeds torch's global generator with the same number
    in every process; MONAI's ``DistributedWeightedRandomSampler`` cuts first and may lose a small data set.)

    Args:
        cases: items with their ``dataset``; those without are one data set.
        sampling: "datasets" or "cases".
        seed: of the draws, the same in all processes.

    Raises:
        ValueError: another ``sampling``.
    """

    def __init__(self, cases: Sequence[Mapping[str, Any]], *, sampling: str = "datasets", seed: int = 0) -> None:
        if sampling not in SAMPLING:
            raise ValueError(f"--sampling must be one of {list(SAMPLING)}, not {sampling!r}.")
        groups: dict[Any, list[int]] = {}
        for index, case in enumerate(cases):
            groups.setdefault(case.get("dataset") if sampling == "datasets" else None, []).append(index)
        self.groups = [torch.tensor(group) for group in groups.values()]
        self.count = -(-len(cases) // world_size())
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)

    def set_epoch(self, epoch: int) -> None:
        """Draw as no epoch before this one did: for a training that goes on."""
        self.generator.manual_seed(self.seed + epoch)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        draws = self.count * world_size()
        drawn = []
        for place, group in enumerate(self._shuffled(len(self.groups)).tolist()):
            cases = self.groups[group]
            wanted = draws // len(self.groups) + (place < draws % len(self.groups))
            rounds = [cases[self._shuffled(len(cases))] for _ in range(-(-wanted // len(cases)))]
            drawn.append(torch.cat(rounds)[:wanted] if rounds else cases[:0])
        order = torch.cat(drawn)[self._shuffled(draws)]
        return iter(order[rank() :: world_size()].tolist())

    def _shuffled(self, count: int) -> torch.Tensor:
        return torch.randperm(count, generator=self.generator)
