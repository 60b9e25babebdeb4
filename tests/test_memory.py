"""Memory that is kept is reused, and given back afterwards."""

import subprocess
import sys

import pytest

from custom.memory import _library

PROGRAM = """
import resource, torch
from pathlib import Path
from custom.memory import reused_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

start, usual = held(), faults()
with reused_memory():
    with reused_memory():
        faults()
    kept, inside = faults(), held()
print(usual > 10 * kept, inside > start + 80, held() < start + 40)
"""


IN_A_THREAD = """
import resource, threading, torch
from custom.memory import reused_memory, share_memory_between_threads

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def inside():
    with reused_memory():
        faults()
        print(faults())

share_memory_between_threads()
thread = threading.Thread(target=inside)
thread.start()
thread.join()
"""


@pytest.mark.skipif(_library() is None, reason="the C library is not glibc")
def test_pages_are_reused_inside_and_given_back_outside() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3


@pytest.mark.skipif(_library() is None, reason="the C library is not glibc")
def test_pages_are_reused_in_threads_too() -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_THREAD], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000
