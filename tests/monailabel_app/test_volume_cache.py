"""The cache of preprocessed volumes: each is prepared once, and memory is bounded."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from lib.infers.volume_cache import VolumeCache
from monai.data import MetaTensor


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(b"1")
    return files


@pytest.fixture
def file(files: list[Path]) -> Path:
    return files[0]


def prepare(path: str) -> MetaTensor:
    return MetaTensor(torch.full((1, 4, 4, 4), float(len(Path(path).read_bytes()))))


def test_concurrent_requests_prepare_a_volume_once(file: Path) -> None:
    cache, calls = VolumeCache(limit=10_000), []

    def slow(path: str) -> MetaTensor:
        calls.append(threading.get_ident())
        time.sleep(0.2)
        return prepare(path)

    with ThreadPoolExecutor(4) as threads:
        volumes = list(threads.map(lambda _: cache.prepared(file, slow), range(4)))
    assert len(calls) == 1 and all(volume is volumes[0] for volume in volumes)


def test_other_settings_or_a_changed_file_give_another_volume(file: Path) -> None:
    cache = VolumeCache(limit=10_000)
    first = cache.prepared(file, prepare)
    assert cache.prepared(file, lambda path: prepare(path)) is not first
    file.write_bytes(b"22")
    assert cache.prepared(file, prepare).max() == 2


@pytest.mark.parametrize(("content", "later"), [(b"2", 1), (b"22", 0)], ids=["by its time", "by its size"])
def test_a_file_that_was_replaced_is_read_again(file: Path, content: bytes, later: int) -> None:
    cache = VolumeCache(limit=10_000)
    first, changed = cache.prepared(file, prepare), file.stat().st_mtime_ns
    file.write_bytes(content)
    os.utime(file, ns=(changed, changed + later))
    assert cache.prepared(file, prepare) is not first


def test_the_least_recently_used_goes_first(files: list[Path]) -> None:
    size = prepare(str(files[0])).nbytes
    cache = VolumeCache(limit=2 * size)
    first, second = (cache.prepared(file, prepare) for file in files[:2])
    assert cache.prepared(files[0], prepare) is first
    cache.prepared(files[2], prepare)
    assert cache.prepared(files[0], prepare) is first
    assert cache.prepared(files[1], prepare) is not second


def test_a_volume_that_does_not_fit_is_not_kept(file: Path) -> None:
    cache = VolumeCache(limit=1)
    first = cache.prepared(file, prepare)
    assert cache.prepared(file, prepare) is not first


def test_a_preparation_that_fails_can_be_tried_again(file: Path) -> None:
    cache = VolumeCache(limit=10_000)

    def fail(path: str) -> MetaTensor:
        raise ValueError("damaged")

    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            cache.prepared(file, fail)
    assert cache.prepared(file, prepare).max() == 1


def test_volumes_of_deleted_files_are_dropped_first(files: list[Path]) -> None:
    cache = VolumeCache(limit=2 * prepare(str(files[0])).nbytes)
    first = cache.prepared(files[0], prepare)
    cache.prepared(files[1], prepare)
    files[1].unlink()
    cache.prepared(files[2], prepare)
    assert cache.prepared(files[0], prepare) is first
