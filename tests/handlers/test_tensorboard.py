"""TensorBoard curves of a training, for each data set."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from custom.datasets.labels import UNKNOWN
from custom.handlers.tensorboard import TrainingCurves
from custom.losses.partial_label import PartialLabelLoss


def items() -> list[dict[str, Any]]:
    """Six cases of three data sets; "04" labels both classes but lacks the second, "05" labels nothing."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for dataset in ("01", "04", "05") * 2:
        label = (torch.rand(2, 4, 4, 4, generator=generator) < 0.5).to(torch.int8)
        if dataset != "04":
            label[1] = UNKNOWN
        if dataset == "05":
            label[0] = UNKNOWN
        if dataset == "04":
            label[1] = 0
        found.append({"image": torch.randn(1, 4, 4, 4, generator=generator), "label": label, "dataset": dataset})
    return found


@pytest.mark.parametrize("dice_of_empty", [True, False])
def test_the_terms_of_the_loss_are_logged_for_each_data_set(tmp_path: Path, dice_of_empty: bool) -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 1)
    loss = PartialLabelLoss(bce_weight=2, dice_of_empty=dice_of_empty)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(Dataset(items()), batch_size=3),
        network=network,
        optimizer=optimizer,
        loss_function=loss,
        train_handlers=[TrainingCurves(tmp_path, loss=loss, optimizer=optimizer)],
    ).run()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    logged = {tag: [scalar.value for scalar in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    terms = [f"train/{term}/{dataset}" for term in ("cross_entropy", "dice_loss") for dataset in ("01", "04")]
    assert sorted(logged) == sorted([*terms, "train/learning_rate", "train/loss"])

    batch = items()
    for dataset in ("01", "04"):
        own = [item for item in batch if item["dataset"] == dataset]
        logits = network(torch.stack([item["image"] for item in own]))
        target = torch.stack([item["label"] for item in own])
        for term, weight in (("cross_entropy", 1.0), ("dice_loss", 0.0)):
            whole = PartialLabelLoss(bce_weight=weight, dice_of_empty=dice_of_empty)(logits, target)
            wanted = whole - PartialLabelLoss(bce_weight=0, dice_of_empty=dice_of_empty)(logits, target) * weight
            assert logged[f"train/{term}/{dataset}"] == pytest.approx([wanted.item()] * 2, rel=1e-5)
    assert logged["train/learning_rate"] == [0, 0]


def test_every_epoch_has_its_own_mean(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, loss, losses = nn.Conv3d(1, 2, 1), PartialLabelLoss(bce_weight=2), []
    optimizer = torch.optim.SGD(network.parameters(), lr=5.0)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=DataLoader(Dataset(items()), batch_size=3),
        network=network,
        optimizer=optimizer,
        loss_function=loss,
        train_handlers=[TrainingCurves(tmp_path, loss=loss, optimizer=optimizer)],
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output[0]["loss"]))
    trainer.run()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    logged = [scalar.value for scalar in events.Scalars("train/loss")]
    assert logged == pytest.approx([(losses[at] + losses[at + 1]) / 2 for at in (0, 2, 4)])
    assert len({round(value, 3) for value in logged}) == 3


def test_another_loss_is_refused_with_the_reason(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(nn.Conv3d(1, 2, 1).parameters(), lr=1.0)
    with pytest.raises(ValueError, match=r"PartialLabelLoss or derived .*not DiceCELoss: .*unlabelled structures"):
        TrainingCurves(tmp_path, loss=DiceCELoss(), optimizer=optimizer)
