"""Prepared cases on disk: their content, their keys, and transforms that may not be cached."""

import json
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, Dataset, MetaTensor
from monai.transforms import Compose, Lambdad, LoadImaged, RandFlipd

from custom.anatomy.class_set import ClassSet
from custom.datasets.cache import PreparedDataset, create_dataset
from custom.datasets.dataset_json import read_data_list
from custom.tools.phantoms.scene import make_phantom
from tests.helpers import ROOT

CONFIG = ROOT / "bundles" / "film_swinunetr" / "configs" / "train.json"
HU = 425


def parse(dataset_dir: Path, **settings: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(CONFIG)
    parser.update(pairs={"dataset_dir": str(dataset_dir), "spacing": [7, 7, 7], "roi_size": [64, 64, 64]} | settings)
    return parser


@pytest.fixture
def dataset(small_dataset: Path, tmp_path: Path, class_set: ClassSet) -> PreparedDataset:
    data = read_data_list(small_dataset, "training", class_set)
    preparation = parse(small_dataset).get_parsed_content("preprocessing")
    return PreparedDataset(data, Compose([]), preparation=preparation, cache_dir=tmp_path / "cache")


def plain(dataset: PreparedDataset) -> dict[str, Any]:
    """The case without a cache."""
    result: dict[str, Any] = dataset.transform(dict(dataset.data[0]))
    return result


def test_a_kept_case_is_the_case(dataset: PreparedDataset) -> None:
    expected = plain(dataset)
    first = dataset.prepared(0)
    (entry,) = dataset.cache_dir.iterdir()
    written = entry.stat().st_mtime_ns
    second = dataset.prepared(0)
    assert entry.stat().st_mtime_ns == written
    for item in (first, second):
        torch.testing.assert_close(item["label"].as_tensor(), expected["label"].as_tensor().byte())
        assert item["image"].dtype == torch.float32
        apart = (item["image"] - expected["image"]).abs().max().item()
        assert apart * HU <= 0.11  # HU
        for key in ("image", "label"):
            assert isinstance(item[key], MetaTensor)
            torch.testing.assert_close(item[key].affine, expected[key].affine)
            assert item[key].meta["filename_or_obj"] == expected[key].meta["filename_or_obj"]
        torch.testing.assert_close(item["value_table"], expected["value_table"])
        assert item["dataset"] == expected["dataset"]
    torch.testing.assert_close(first["image"].as_tensor(), second["image"].as_tensor(), rtol=0, atol=0)


def test_three_bytes_a_voxel(dataset: PreparedDataset) -> None:
    voxels = dataset.prepared(0)["image"].numel()
    (entry,) = dataset.cache_dir.iterdir()
    assert 3 * voxels < entry.stat().st_size < 3 * voxels + 20_000


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_entry_is_renewed(dataset: PreparedDataset, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = dataset.prepared(0)["image"].as_tensor()
    (entry,) = dataset.cache_dir.iterdir()
    content = bytearray(entry.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(255 - byte for byte in content[middle : middle + 64])
    broken: dict[str, bytes | bytearray] = {
        "cut": content[:middle],
        "flipped": content,
        "empty": b"",
        "other": b"no archive" * 100,
    }
    entry.write_bytes(broken[damage])
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(dataset.prepared(0)["image"].as_tensor(), expected, rtol=0, atol=0)
    assert f"{entry} is damaged and is prepared again" in caplog.text
    caplog.clear()
    dataset.prepared(0)
    assert not caplog.text


def test_an_entry_cannot_carry_code(dataset: PreparedDataset, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    dataset.prepared(0)
    (entry,) = dataset.cache_dir.iterdir()
    torch.save({"image": Attack()}, entry)
    assert dataset.prepared(0)["image"].ndim == 4
    assert not (tmp_path / "executed").exists()


def _prepare(dataset: PreparedDataset) -> None:
    torch.set_num_threads(1)  # as in every worker: OpenMP does not survive a fork
    for _ in range(5):
        dataset.prepared(0)
        dataset.entry(dataset.data[0]).unlink(missing_ok=True)
    dataset.prepared(0)


def test_processes_that_write_the_same_entry_at_once(dataset: PreparedDataset) -> None:
    expected = dataset.prepared(0)["image"].as_tensor()
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_prepare, args=(dataset,)) for _ in range(2)]
    for other in others:
        other.start()
    for _ in range(20):
        torch.testing.assert_close(dataset.prepared(0)["image"].as_tensor(), expected, rtol=0, atol=0)
    for other in others:
        other.join()
        assert other.exitcode == 0
    assert [path.suffix for path in dataset.cache_dir.iterdir()] == [".pt"]


def test_random_transforms_are_never_kept(small_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="RandFlipd is random"):
        PreparedDataset([], Compose([]), preparation=Compose([RandFlipd("image")]), cache_dir=tmp_path)
    with pytest.raises(TypeError, match="named functions"):
        steps = [LoadImaged("image"), Lambdad("image", lambda volume: volume)]
        PreparedDataset([], Compose([]), preparation=Compose(steps), cache_dir=tmp_path)


def test_training_and_validation_keep_the_compact_case(small_dataset: Path, small: Any, tmp_path: Path) -> None:
    """Neither the 32 channels nor the draw of crop and prompt are in the cache; both ways give the same items."""
    settings = {"text_encoder": "minilm", "text_bank": str(small.text_bank), "train::samples_per_volume": 1}
    parser = parse(small_dataset, cache_dir=str(tmp_path / "cache"), roi_size=[32, 32, 32], **settings)
    crops = [parser.get_parsed_content("train::dataset")[0][0] for _ in range(3)]
    assert all(crop["label"].shape == (32, 32, 32, 32) and crop["image"].dtype == torch.float32 for crop in crops)
    assert len({crop["image"].sum().item() for crop in crops}) > 1
    validated = parser.get_parsed_content("validate::dataset")[0]
    in_memory = parse(small_dataset, roi_size=[32, 32, 32], **settings).get_parsed_content("validate::dataset")
    assert isinstance(in_memory, Dataset)
    expected = in_memory[0]
    torch.testing.assert_close(validated["label"].as_tensor(), expected["label"].as_tensor())
    torch.testing.assert_close(validated["image"].as_tensor(), expected["image"].as_tensor(), rtol=0, atol=3e-4)
    torch.testing.assert_close(validated["text"], expected["text"])
    assert len(list((tmp_path / "cache").iterdir())) == 2
    for entry in (tmp_path / "cache").iterdir():
        assert entry.stat().st_size < 3 * 64**3 + 50_000


def test_without_a_folder_cases_stay_in_memory() -> None:
    made = [
        create_dataset([], Compose([]), preparation=Compose([]), cache_dir=None, cache_rate=rate) for rate in (1, 0)
    ]
    assert [type(dataset) for dataset in made] == [CacheDataset, Dataset]


def test_sides_are_split_before_anything_is_kept(tmp_path: Path, class_set: ClassSet) -> None:
    phantom = make_phantom(3, spacing=(6.0, 6.0, 6.0))
    label = np.where(np.isin(phantom.label, [2, 3, 26, 33]), np.uint8(1), np.uint8(0))
    turned = [
        nib.Nifti1Image(values, phantom.affine).as_reoriented([[2, -1], [0, -1], [1, 1]])
        for values in (phantom.image, label)
    ]
    for image, name in zip(turned, ("a.nii.gz", "b.nii.gz"), strict=True):
        nib.save(image, tmp_path / name)
    content = {"labels": {"1": "kidneys"}, "training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    parser = parse(tmp_path, spacing=[6, 6, 6])
    dataset = PreparedDataset(
        read_data_list(tmp_path, "training", class_set),
        Compose([]),
        preparation=parser.get_parsed_content("preprocessing"),
        cache_dir=tmp_path / "cache",
    )
    for _ in range(2):
        item = dataset.prepared(0)
        assert item["side_notes"] == []
        for value, own in ((1, [2, 26]), (2, [3, 33])):
            assert int((item["label"] == value).sum()) == int(np.isin(phantom.label, own).sum())
