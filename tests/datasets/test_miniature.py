"""The references' data sets in miniature: from list files to targets that equal the phantoms' own truth."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd

from custom.anatomy.class_set import ClassSet
from custom.datasets.dataset_json import read_data_list
from custom.datasets.labels import UNKNOWN
from custom.transforms.labels import LabelsToTargetd
from custom.transforms.load import LoadVolumed
from custom.transforms.sides import SplitSidesd
from tests.helpers.fake_datasets import FAKES, Written, is_part, write_fakes, write_lists
from tests.helpers.warm_python import run_python

SPACING = (6.0, 5.0, 7.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def written(root: Path) -> dict[Path, Written]:
    return write_fakes(root, seeds=(1, 3), spacing=SPACING)


def prepare(root: Path) -> str:
    """Run the command and return its output."""
    lists = ("--lists", "PAOT", "--lists_dir", root / "lists", "--data_root", root)
    done = run_python("scripts/prepare_data.py", root / "prepared", *lists, "--spacing", json.dumps(SPACING))
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dataset_dir(root: Path, written: dict[Path, Written]) -> Path:
    write_lists(root / "lists", name="PAOT", splits={"train": [1], "val": [3]})
    assert "10 of 10 cases are prepared, 10 of them now; 0 suspicious, 0 failed" in prepare(root)
    return root / "prepared"


def test_the_report_counts_the_truth(dataset_dir: Path, written: dict[Path, Written]) -> None:
    datasets = json.loads((dataset_dir / "preparation.json").read_text())["datasets"]
    assert list(datasets) == sorted(FAKES)
    for key, fake in FAKES.items():
        found = {name: facts["voxels"] for name, facts in datasets[key]["classes"].items()}
        labels = [label for other, label in written.values() if other == key]
        assert found == {name: sum(int(is_part(label, name).sum()) for label in labels) for name in fake.labelled}


def test_what_is_prepared_is_not_prepared_again(dataset_dir: Path, root: Path) -> None:
    assert "10 of 10 cases are prepared, 0 of them now" in prepare(root)


@pytest.mark.parametrize("split", ["training", "validation"])
def test_targets_are_the_truth_voxel_for_voxel(
    dataset_dir: Path, written: dict[Path, Written], class_set: ClassSet, split: str
) -> None:
    harmonise = Compose(
        [
            LoadVolumed(["image", "label"], class_set),
            EnsureChannelFirstd(["image", "label"]),
            SplitSidesd("label", class_set),
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
