"""Augmentation that differs between data sets, alone and as the bundle declares it for all of them."""

import pickle
from collections import Counter
from collections.abc import Hashable
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, RandShiftIntensityd

from custom.transforms.per_dataset import ApplyByDatasetd
from tests.helpers import ROOT

CONFIG = ROOT / "bundles" / "film_swinunetr" / "configs" / "train.json"


def shift(offset: float) -> RandShiftIntensityd:
    return RandShiftIntensityd("image", offsets=(offset, offset + 1), prob=1.0)


def item(dataset: str | None) -> dict[Hashable, Any]:
    return {"image": torch.zeros(1, 2, 2, 2)} | ({} if dataset is None else {"dataset": dataset})


@pytest.mark.parametrize(
    ("patterns", "dataset", "chosen"),
    [
        (["04", "10_*"], "04", True),
        (["04", "10_*"], "10_03", True),
        (["04", "10_*"], "01", False),
        (["04"], None, False),
        (["*"], None, True),
        ([], "04", False),
    ],
)
def test_a_transform_is_chosen_by_the_key_of_the_data_set(
    patterns: list[str], dataset: str | None, chosen: bool
) -> None:
    both = ApplyByDatasetd(patterns, shift(10), shift(20))(item(dataset))
    assert (10 <= both["image"].max().item() <= 11) is chosen
    alone = ApplyByDatasetd(patterns, shift(10))(item(dataset))
    assert bool(alone["image"].any()) is chosen


def test_chance_is_seeded_and_survives_pickling() -> None:
    def values(transform: Compose) -> list[float]:
        return [transform(item(key))["image"].max().item() for key in ("04", "01", "04", "01")]

    first = Compose([ApplyByDatasetd(["04"], shift(10), shift(20))]).set_random_state(3)
    copied = pickle.loads(pickle.dumps(first))
    other = Compose([ApplyByDatasetd(["04"], shift(10), shift(20))]).set_random_state(4)
    drawn = values(first)
    assert len(set(drawn)) == 4
    assert values(copied) == drawn != values(other)


@pytest.mark.parametrize("datasets", ["04", True, [4], {"04": 1}])
def test_data_sets_are_a_list(datasets: Any) -> None:
    with pytest.raises(ValueError, match="must be a list of keys or patterns, such as"):
        ApplyByDatasetd(datasets, shift(1))


@pytest.mark.parametrize(
    ("dataset", "centres", "zooms"),
    [
        ("04", {0: 1 / 7, 1: 1 / 7, 2: 5 / 7}, False),
        ("10_03", {2: 5 / 7}, True),
        ("10_06", {}, True),
        ("05", {}, False),
    ],
)
def test_the_bundle_treats_data_sets_as_the_reference_does(
    dataset: str, centres: dict[int, float], zooms: bool
) -> None:
    """Ratios of background, organ and tumour, where declared; else two thirds inside a structure. Zooms of 1.3-1.5."""
    parser = ConfigParser()
    parser.read_config(str(CONFIG))
    parser["roi_size"], parser["train::samples_per_volume"] = [9, 9, 9], 4
    augment = Compose(parser.get_parsed_content("train::random_transforms")[:2]).set_random_state(0)
    label = torch.zeros(1, 40, 40, 40)
    label[:, 8:24, 8:24, 8:24] = 1
    label[:, 12:16, 12:16, 12:16] = 2
    ramp = torch.arange(40.0).reshape(1, 40, 1, 1).expand(1, 40, 40, 40) + 1
    seen: Counter[int] = Counter()
    steps = []
    for _ in range(150):
        for crop in augment({"image": MetaTensor(ramp), "label": MetaTensor(label), "dataset": dataset}):
            assert crop["image"].shape == (1, 9, 9, 9)
            seen[int(crop["label"][0, 4, 4, 4])] += 1
            steps.append(crop["image"].as_tensor()[0, 3:6, 4, 4].diff().mean().item())
    for value, share in (centres or {0: 1 / 3}).items():
        assert seen[value] / seen.total() == pytest.approx(share, abs=0.07)
    zoom_datasets = [step for step in steps if step < 0.95]
    assert len(zoom_datasets) / len(steps) == pytest.approx(0.3 if zooms else 0, abs=0.07)
    assert all(1 / 1.55 < step < 1 / 1.2 for step in zoom_datasets)


@pytest.mark.parametrize("by_class", [False, True])
def test_training_augmentation_never_mirrors_left_and_right(by_class: bool) -> None:
    """Left and right are words of the prompt."""
    parser = ConfigParser()
    parser.read_config(str(CONFIG))
    parser["roi_size"] = [8, 8, 8]
    parser["train::crop_datasets"], parser["train::crop_ratios"] = ["*"] if by_class else [], [1] * 13
    parser["train::zoom_datasets"] = []
    augment = Compose(parser.get_parsed_content("train::random_transforms")).set_random_state(0)
    across = torch.arange(12.0).reshape(1, 12, 1, 1).expand(1, 12, 12, 12)
    upwards = torch.arange(12.0).expand(1, 12, 12, 12)
    label = (across + 1) * (upwards > 5)
    turned = 0
    for _ in range(100):
        crops = augment({"image": MetaTensor(torch.cat([across, upwards])), "label": MetaTensor(label.clone())})
        assert len(crops) == parser["train::samples_per_volume"]
        for crop in crops:
            x, z = crop["image"].as_tensor()
            torch.testing.assert_close(x.diff(dim=0), torch.ones(7, 8, 8))
            assert (x.diff(dim=1).abs().max(), x.diff(dim=2).abs().max()) == (0, 0)
            marked = crop["label"][0] > 0
            first = crop["label"].max() - 7  # label of the leftmost plane
            assert torch.equal(crop["label"][0], (first + torch.arange(8.0).reshape(8, 1, 1)) * marked)
            turned += not torch.allclose(z.diff(dim=2), torch.ones(8, 8, 7))
    assert turned > 0  # it does rotate, about the left-right axis only
