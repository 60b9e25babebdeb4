"""Freed memory is reused, and returned afterwards; allocations that exceed what is available are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from custom.inferers.feature_cache import fitting_cache
from custom.utils import allocator as memory
from custom.utils.allocator import _library, available_memory
from custom.utils.memory import NotEnoughMemory, check_available

PROGRAM = """
import resource, torch
from pathlib import Path
from custom.utils.allocator import keep_freed_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

start, usual = held(), faults()
with keep_freed_memory():
    with keep_freed_memory():
        faults()
    kept, inside = faults(), held()
print(usual > 10 * kept, inside > start + 80, held() < start + 40)
"""


IN_A_THREAD = """
import resource, threading, torch
from custom.utils.allocator import keep_freed_memory, share_memory_between_threads

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def inside():
    with keep_freed_memory():
        faults()
        print(faults())

share_memory_between_threads()
thread = threading.Thread(target=inside)
thread.start()
thread.join()
"""


@pytest.mark.skipif(_library() is None, reason="the C library is not glibc")
def test_pages_are_reused_inside_and_returned_outside() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3


@pytest.mark.skipif(_library() is None, reason="the C library is not glibc")
def test_pages_are_reused_in_threads_too() -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_THREAD], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000


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
