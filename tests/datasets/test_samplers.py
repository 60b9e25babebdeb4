"""Every data set is drawn equally often, whatever its size."""

from collections import Counter
from typing import Any

import pytest

from custom.datasets.samplers import CaseSampler

SIZES = {"01": 30, "04": 131, "05": 210, "12": 5, "10_03": 118}
CASES: list[dict[str, Any]] = [{"dataset": key} for key, size in SIZES.items() for _ in range(size)]


def drawn(sampler: CaseSampler) -> Counter[str]:
    return Counter(CASES[index]["dataset"] for index in sampler)


def test_every_data_set_is_drawn_equally_often_and_its_cases_too() -> None:
    sampler = CaseSampler(CASES, seed=1)
    indices = list(sampler)
    assert len(indices) == len(sampler) == len(CASES)
    times = Counter(indices)
    quotas = Counter(CASES[index]["dataset"] for index in indices)
    assert max(quotas.values()) - min(quotas.values()) <= 1
    for key in SIZES:
        of_its_cases = [times[index] for index, case in enumerate(CASES) if case["dataset"] == key]
        assert max(of_its_cases) - min(of_its_cases) <= 1
    first = Counter(CASES[index]["dataset"] for index in indices[: len(CASES) // 2])
    assert set(first) == set(SIZES)  # mixed, not one data set after the other


@pytest.mark.parametrize("cases", [CASES, [{}] * 7, [{"dataset": "01"}] * 7])
@pytest.mark.parametrize("sampling", ["datasets", "cases"])
def test_one_data_set_or_all_as_one_are_shuffled(cases: list[dict[str, Any]], sampling: str) -> None:
    sampler = CaseSampler(cases, sampling=sampling, seed=2)
    first, second = list(sampler), list(sampler)
    assert first != second
    if sampling == "cases" or len(cases) == 7:
        assert sorted(first) == sorted(second) == list(range(len(cases)))


def test_draws_follow_the_seed_and_go_on_elsewhere_after_a_resume() -> None:
    assert list(CaseSampler(CASES, seed=3)) == list(CaseSampler(CASES, seed=3)) != list(CaseSampler(CASES, seed=4))
    resumed = CaseSampler(CASES, seed=3)
    resumed.set_epoch(5)
    assert list(resumed) != list(CaseSampler(CASES, seed=3))


def test_more_data_sets_than_draws_take_turns() -> None:
    few = [{"dataset": str(index)} for index in range(3)] + [{"dataset": "0"}] * 2
    assert Counter(few[index]["dataset"] for _ in range(50) for index in CaseSampler(few[:2])) == {"0": 50, "1": 50}
    assert sum(drawn(CaseSampler(CASES[:1])).values()) == 1


def test_other_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--train::sampling must be one of \['datasets', 'cases'\], not 'voxels'"):
        CaseSampler(CASES, sampling="voxels")
