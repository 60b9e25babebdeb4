"""The cache of prepared volumes: each is prepared once, and memory stays bounded."""

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


def test_a_volume_is_prepared_once_even_when_many_ask(file: Path) -> None:
    cache, calls = VolumeCache(limit=10_000), []

    def slow(path: str) -> MetaTensor:
        calls.append(threading.get_ident())
        time.sleep(0.2)
        return prepare(path)

    with ThreadPoolExecutor(4) as threads:
        volumes = list(threads.map(lambda _: cache.get(file, recipe="r", prepare=slow), range(4)))
    assert len(calls) == 1 and all(volume is volumes[0] for volume in volumes)


def test_another_recipe_or_a_changed_file_is_another_volume(file: Path) -> None:
    cache = VolumeCache(limit=10_000)
    first = cache.get(file, recipe="r", prepare=prepare)
    assert cache.get(file, recipe="s", prepare=prepare) is not first
    file.write_bytes(b"22")
    assert cache.get(file, recipe="r", prepare=prepare).max() == 2


def test_the_least_recently_used_goes_first(files: list[Path]) -> None:
    size = prepare(str(files[0])).nbytes
    cache = VolumeCache(limit=2 * size)
    first, second = (cache.get(file, recipe="r", prepare=prepare) for file in files[:2])
    assert cache.get(files[0], recipe="r", prepare=prepare) is first
    cache.get(files[2], recipe="r", prepare=prepare)
    assert cache.get(files[0], recipe="r", prepare=prepare) is first
    assert cache.get(files[1], recipe="r", prepare=prepare) is not second


def test_what_does_not_fit_is_prepared_and_not_kept(file: Path) -> None:
    cache = VolumeCache(limit=1)
    first = cache.get(file, recipe="r", prepare=prepare)
    assert cache.get(file, recipe="r", prepare=prepare) is not first


def test_a_preparation_that_fails_can_be_tried_again(file: Path) -> None:
    cache = VolumeCache(limit=10_000)

    def fail(path: str) -> MetaTensor:
        raise ValueError("damaged")

    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            cache.get(file, recipe="r", prepare=fail)
    assert cache.get(file, recipe="r", prepare=prepare).max() == 1


def test_volumes_of_files_that_are_gone_go_before_others(files: list[Path]) -> None:
    cache = VolumeCache(limit=2 * prepare(str(files[0])).nbytes)
    first = cache.get(files[0], recipe="r", prepare=prepare)
    cache.get(files[1], recipe="r", prepare=prepare)
    files[1].unlink()
    cache.get(files[2], recipe="r", prepare=prepare)
    assert cache.get(files[0], recipe="r", prepare=prepare) is first
