"""Keys of the cache: the same in every process, another for every change that matters."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigParser
from monai.transforms import CropForeground, Lambda

import custom
from custom.anatomy.class_set import ClassSet
from custom.datasets.cache_keys import canonical, item_key, program_digest, transforms_key
from custom.datasets.dataset_json import read_data_list
from tests.helpers import ROOT
from tests.helpers.warm_python import run_python

CONFIG = ROOT / "bundles" / "film_swinunetr" / "configs" / "train.json"

KEYS_OF_A_RUN = """
import sys
from monai.bundle import ConfigParser
from custom.datasets.cache_keys import item_key, transforms_key
parser = ConfigParser()
parser.read_config(sys.argv[1])
parser.update(pairs={"dataset_dir": sys.argv[2], "spacing": [7, 7, 7.0]})
(case,) = parser.get_parsed_content("train::dataset::data")
print(item_key(case).decode())
print(transforms_key(parser.get_parsed_content("preprocessing").transforms).decode())
"""


def preprocessing(**settings: Any) -> tuple[Any, ...]:
    parser = ConfigParser()
    parser.read_config(CONFIG)
    parser.update(pairs=settings)
    transforms: tuple[Any, ...] = parser.get_parsed_content("preprocessing").transforms
    return transforms


def test_two_processes_compute_the_same_keys(small_dataset: Path, class_set: ClassSet) -> None:
    other = run_python("-c", KEYS_OF_A_RUN, CONFIG, small_dataset).stdout.split()
    (case,) = read_data_list(small_dataset, "training", class_set)
    assert other == [item_key(case).decode(), transforms_key(preprocessing(spacing=(7.0, 7.0, 7.0))).decode()]


def test_using_transforms_does_not_change_their_key(small_dataset: Path, class_set: ClassSet) -> None:
    transforms = preprocessing(spacing=[12, 12, 12])
    before = transforms_key(transforms)
    item: Any = read_data_list(small_dataset, "training", class_set)[0]
    for transform in transforms:
        item = transform(item)
    assert transforms_key(transforms) == before


@pytest.mark.parametrize(
    "settings",
    [
        {"spacing": [7, 7, 8]},
        {"check_intensity": False},
        {"preprocessing::transforms::6::mode": ["bilinear", "bilinear"]},
        {"class_set_file": "hippocampus"},
        {"preprocessing::transforms::8::margin": 1},
    ],
)
def test_every_changed_parameter_is_another_key(settings: dict[str, Any]) -> None:
    assert transforms_key(preprocessing(**{"spacing": [7, 7, 7]} | settings)) != transforms_key(
        preprocessing(spacing=[7, 7, 7])
    )


def test_what_comes_after_the_cached_part_is_no_part_of_the_key() -> None:
    settings = {"roi_size": [64, 64, 64], "train::samples_per_volume": 4, "seed": 5, "train::prompt_policy": "dataset"}
    assert transforms_key(preprocessing(**settings)) == transforms_key(preprocessing())


def test_a_changed_file_or_meaning_is_another_key(tmp_path: Path, class_set: ClassSet) -> None:
    labels = {"1": "liver", "2": ["liver tumor", "liver"]}

    def keys(labels: dict[str, Any]) -> set[bytes]:
        content = {"labels": labels, "training": [{"image": "a.nii", "label": "b.nii"}]}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        return {item_key(item) for item in read_data_list(tmp_path, "training", class_set)}

    for name in ("a.nii", "b.nii"):
        (tmp_path / name).write_bytes(b"first")
    found = keys(labels)
    assert keys(labels) == found
    found |= keys({"1": "liver", "2": "liver"}) | keys({"1": "kidneys"})
    stamp = (tmp_path / "b.nii").stat().st_mtime_ns
    (tmp_path / "b.nii").write_bytes(b"second")
    os.utime(tmp_path / "b.nii", ns=(stamp, stamp))  # of another size
    found |= keys(labels)
    os.utime(tmp_path / "b.nii", ns=(stamp + 1, stamp + 1))
    assert len(found | keys(labels)) == 5


def test_numbers_and_sequences_are_what_they_mean() -> None:
    assert canonical((1, 2.0, np.float32(3))) == canonical([1.0, 2, 3])
    assert canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1})
    assert canonical(np.arange(3)) != canonical(np.arange(3.0))


def test_functions_without_a_name_are_refused() -> None:
    for transform in (Lambda(lambda volume: volume), CropForeground(select_fn=lambda volume: volume > 1)):
        with pytest.raises(TypeError, match=r"named functions.*lambda"):
            transforms_key([transform])


@pytest.mark.parametrize("package", ["transforms", "imageio", "anatomy", "utils"])
def test_a_change_of_the_program_gives_another_key(tmp_path: Path, package: str) -> None:
    source = Path(custom.__file__).parent
    for name in ("same", "changed", "words"):
        shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    module = next((tmp_path / "changed" / package).glob("*.py"))
    module.write_text(f"{module.read_text()}\n# changed\n")
    (tmp_path / "words" / "prompts" / "grammar.py").write_text("")
    digests = {name: program_digest(tmp_path / name) for name in ("same", "changed", "words")}
    assert digests["same"] == digests["words"] == program_digest(source)
    assert digests["changed"] != digests["same"]
