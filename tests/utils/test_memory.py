"""Freed memory is reused, and returned afterwards; allocations that exceed what is available are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from custom.inferers.feature_cache import fitting_cache
from custom.utils import memory
from custom.utils.memory import NotEnoughMemory, _library, available_memory, check_available

FAULTS = """
import resource, threading, torch
from pathlib import Path
from custom.utils.memory import keep_freed_memory, share_memory_between_threads

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""

PROGRAM = """
def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

start, usual = held(), faults()
with keep_freed_memory():
    with keep_freed_memory():
        faults()
    kept, inside = faults(), held()
print(usual > 10 * kept, inside > start + 80, held() < start + 40)
"""

IN_A_THREAD = """
def inside():
    with keep_freed_memory():
        faults()
        print(faults())

share_memory_between_threads()
thread = threading.Thread(target=inside)
thread.start()
thread.join()
"""


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", FAULTS + program], capture_output=True, text=True, check=True).stdout


needs_glibc = pytest.mark.skipif(_library() is None, reason="the C library is not glibc")


@needs_glibc
def test_pages_are_reused_inside_and_returned_outside() -> None:
    assert run(PROGRAM).split() == ["True"] * 3


@needs_glibc
def test_pages_are_reused_in_threads_too() -> None:
    assert int(run(IN_A_THREAD)) < 1000


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="available memory is known on Linux only")
def test_available_memory_respects_the_limit_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CONTROL_GROUP", tmp_path)
    free = available_memory()
    assert free is not None and 0 < free < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit, left in (("5000000", 4_000_000), ("900000", 0)):  # of a container
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text("1000000\n")
        assert available_memory() == left
    (tmp_path / "memory.max").write_text("max\n")
    assert (available_memory() or 0) > 5_000_000


@pytest.mark.parametrize(("free", "expected"), [(4, 2), (64, 8), (None, 8)])
def test_encoded_windows_take_half_of_the_available_memory(
    free: int | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("custom.inferers.feature_cache", "custom.utils.memory"):
        monkeypatch.setattr(f"{module}.available_memory", lambda: None if free is None else free * 2**30)
    assert fitting_cache(["liver", "spleen"]) == expected
    assert fitting_cache(None) == 0
    check_available(2**31, "the logits of 2 classes")
    if free == 4:
        with pytest.raises(NotEnoughMemory, match=r"8\.0 GiB of memory for the logits of 2 classes, and 4\.0 GiB are"):
            check_available(2**33, "the logits of 2 classes")
