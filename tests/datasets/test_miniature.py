"""The references' data sets in miniature: from list files to targets that equal the phantoms' own truth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FAKES, Written, is_part, write_fakes, write_lists
from monai.transforms import Compose, EnsureChannelFirstd

from custom.anatomy import ClassSet
from custom.datasets import load_catalogue, read_data_list, read_lists, write_description
from custom.images import LoadVolumed
from custom.losses import UNKNOWN
from custom.transforms import LabelsToTargetd, SplitSidesd


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def written(root: Path) -> dict[Path, Written]:
    return write_fakes(root, seeds=(1, 3), spacing=(6.0, 5.0, 7.0))


@pytest.fixture(scope="module")
def dataset_dir(root: Path, written: dict[Path, Written], class_set: ClassSet) -> Path:
    write_lists(root / "lists", name="PAOT", splits={"train": [1], "val": [3]})
    content = read_lists(
        ["PAOT"], lists_dir=root / "lists", data_root=root, catalogue=load_catalogue(), class_set=class_set
    )
    return write_description(content, root / "prepared").parent


@pytest.mark.parametrize("split", ["training", "validation"])
def test_targets_are_the_truth_voxel_for_voxel(
    dataset_dir: Path, written: dict[Path, Written], class_set: ClassSet, split: str
) -> None:
    harmonise = Compose(
        [
            LoadVolumed(["image", "label"], class_set),
            EnsureChannelFirstd(["image", "label"]),
            SplitSidesd("label", body_above=class_set.intensity_window[0]),
            LabelsToTargetd("label"),
        ]
    )
    items = read_data_list(dataset_dir, split, class_set)
    assert [item["dataset"] for item in items] == list(FAKES)
    for item in items:
        key, label = written[Path(item["image"])]
        found = harmonise(item)
        target = found["label"].as_tensor()
        for anatomical in class_set:
            channel = target[anatomical.index - 1]
            if anatomical.name not in FAKES[key].labelled:
                assert (channel == UNKNOWN).all(), (key, anatomical.name)
                continue
            truth = torch.from_numpy(np.ascontiguousarray(is_part(label, anatomical.name)))
            assert torch.equal(channel == 1, truth) and torch.equal(channel == 0, ~truth), (key, anatomical.name)
        assert not found.get("side_notes"), (key, found["side_notes"])
