"""Checkpoints, best weights, interruption, gradient clipping and progress of a training."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Events
from ignite.metrics import Metric
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import LrScheduleHandler, StatsHandler
from safetensors.torch import load_file
from torch import nn

import custom
from custom.handlers import training as running
from custom.handlers.checkpoint import BestWeights, TrainingCheckpoint
from custom.handlers.training import GradientClipping, Interruption, Progress
from custom.weights.header import read_header
from custom.weights.io import differing_tensors, save_weights
from tests.helpers.headers import changed_header

HEADER = {
    "network": "FiLMSwinUNETR",
    "settings": {"variant": "film", "feature_size": 12, "window_size": 4, "text_dim": 384},
    "volume": {
        "class_set": "small",
        "classes": ["spleen", "liver"],
        "trained_classes": ["spleen", "liver"],
        "default_prompt": "abdomen",
        "max_classes_per_prompt": 2,
        "spacing": [1.5, 1.5, 1.5],
        "roi_size": [96, 96, 96],
        "intensity_window": [-175, 250],
        "text_encoder": "minilm",
        "text_kind": "mean",
        "text_dim": 384,
    },
}


CPU = torch.device("cpu")
SETTINGS = {"data": "3 cases (0a1b2c3d)", "roi_size": (96, 96, 96), "batch_size": 1}
ITERATIONS = 3


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 1, 1))


def loader(cases: int = ITERATIONS) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 4, 4, 4, generator=generator) for _ in range(cases)]
    return DataLoader(Dataset([{"image": image, "label": 3 * image} for image in images]), batch_size=1)


class Scripted(Metric):
    """A score per epoch, from a list."""

    def __init__(self, scores: Iterator[float]) -> None:
        self.scores = scores
        super().__init__()

    def reset(self) -> None: ...

    def update(self, output: Any) -> None: ...

    def compute(self) -> float:
        return next(self.scores)


class Training:
    """A real MONAI trainer with the handlers under test, in the order of the bundles."""

    def __init__(
        self,
        folder: Path,
        *,
        max_epochs: int,
        resume: bool = True,
        header: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        cases: int = ITERATIONS,
    ) -> None:
        self.network = small_network()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.05)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 0.9**step)
        self.best = BestWeights(self.network, folder / "model.safetensors", header=HEADER, data={})
        self.path = folder / "last.pt"
        checkpoint = TrainingCheckpoint(
            self.path,
            resume=resume,
            header=header or HEADER,
            settings=settings or SETTINGS,
            network=self.network,
            optimizer=self.optimizer,
            lr_scheduler=self.scheduler,
            best_weights=self.best,
        )
        self.trainer = SupervisedTrainer(
            device=CPU,
            max_epochs=max_epochs,
            train_data_loader=loader(cases),
            network=self.network,
            optimizer=self.optimizer,
            loss_function=nn.MSELoss(),
            train_handlers=[
                Interruption(),
                LrScheduleHandler(self.scheduler, print_lr=False, epoch_level=False),
                StatsHandler(name="train_loss", iteration_log=False, output_transform=lambda output: output[0]["loss"]),
                checkpoint,
            ],
        )
        self.epochs: list[int] = []
        self.rates: list[float] = []
        self.trainer.add_event_handler(Events.EPOCH_STARTED, lambda: self.epochs.append(self.trainer.state.epoch))
        self.trainer.add_event_handler(
            Events.ITERATION_STARTED, lambda: self.rates.append(self.optimizer.param_groups[0]["lr"])
        )

    def run(self) -> "Training":
        self.trainer.run()
        return self


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_only_better_weights_are_written(tmp_path: Path) -> None:
    network, path = small_network(), tmp_path / "models" / "model.safetensors"
    scores = [float("nan"), 0.5, 0.4, 0.7, float("nan"), 0.7, 0.6]
    evaluator = SupervisedEvaluator(
        device=CPU,
        val_data_loader=loader(),
        network=network,
        key_val_metric={"mean_dice": Scripted(iter(scores))},
        additional_metrics={"leakage": Scripted(iter(range(7)))},
        val_handlers=[BestWeights(network, path, header=HEADER, data={})],
    )
    written = []
    for epoch in range(1, len(scores) + 1):
        with torch.no_grad():
            dict(network.named_parameters())["0.bias"].fill_(epoch)
        evaluator.run(global_epoch=epoch)
        if path.is_file():
            written.append(read_header(path)["provenance"]["epoch"])
            assert load_file(path)["0.bias"].tolist() == [written[-1]] * 2
        else:
            written.append(0)
    assert written == [0, 2, 2, 4, 4, 4, 4]
    header = read_header(path)
    provenance = header.pop("provenance")
    assert header == HEADER
    assert provenance["validation"] == {"mean_dice": 0.7, "leakage": 3.0}
    assert (provenance["deep_film"], provenance["torch"]) == (custom.__version__, torch.__version__)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("exported", [True, False])
def test_model_pt_of_an_export_is_written_with_its_weights(
    tmp_path: Path, exported: bool, log: pytest.LogCaptureFixture
) -> None:
    """MONAI's load and ckpt_export read it. A ``model.pt`` with other content is the user's."""
    network, path, plain = small_network(), tmp_path / "model.safetensors", tmp_path / "model.pt"
    save_weights(network, path, header=HEADER, provenance={})
    state = network.state_dict()
    torch.save(state if exported else {"epoch": 3, "state_dict": state}, plain)
    before = plain.read_bytes()
    evaluator = SupervisedEvaluator(
        device=CPU,
        val_data_loader=loader(),
        network=network,
        key_val_metric={"mean_dice": Scripted(iter([0.5, 0.6]))},
        val_handlers=[BestWeights(network, path, header=HEADER, data={})],
    )
    for epoch in (1, 2):
        with torch.no_grad():
            dict(network.named_parameters())["0.bias"].fill_(epoch)
        evaluator.run(global_epoch=epoch)
        if exported:
            written = torch.load(plain, weights_only=True)
            assert written["0.bias"].tolist() == [epoch] * 2
            assert not differing_tensors(written, load_file(path))
        else:
            assert plain.read_bytes() == before
    assert ("model.pt holds other weights" in log.text) is not exported


def test_a_training_in_two_parts_equals_one(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    whole = Training(tmp_path / "whole", max_epochs=4).run()
    first = Training(tmp_path, max_epochs=2)
    first.best.best = 0.25
    first.run()
    first.best.path.touch()
    second = Training(tmp_path, max_epochs=4).run()
    assert (first.epochs, second.epochs) == ([1, 2], [3, 4])
    assert first.rates + second.rates == pytest.approx(whole.rates)
    assert len(set(whole.rates)) == 4 * ITERATIONS
    assert same(second.network, whole.network)  # AdamW's moments included
    assert not same(first.network, whole.network)
    assert second.trainer.state.iteration == 4 * ITERATIONS
    assert second.scheduler.last_epoch == 4 * ITERATIONS
    assert second.best.best == 0.25
    assert "Resuming after epoch 2" in log.text
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} == {"last.pt", "model.safetensors"}


def test_missing_best_weights_are_written_again(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    first = Training(tmp_path, max_epochs=2)
    first.best.best = 0.25
    first.run()
    second = Training(tmp_path, max_epochs=3).run()
    assert second.best.best == float("-inf")  # any score is an improvement
    assert "model.safetensors is not there, the best weights so far (score 0.2500): the next" in log.text


def test_weights_written_after_the_last_checkpoint_are_not_replaced_by_worse(tmp_path: Path) -> None:
    """A kill between the best weights and the checkpoint of their epoch."""
    first = Training(tmp_path, max_epochs=2).run()
    provenance = {"epoch": 3, "score": 0.85, "validation": {"mean_dice": 0.85}}
    save_weights(first.network, first.best.path, header=HEADER, provenance=provenance)
    assert Training(tmp_path, max_epochs=3).run().best.best == 0.85
    save_weights(first.network, first.best.path, header=HEADER, provenance=provenance | {"epoch": 2, "score": 0.9})
    assert Training(tmp_path, max_epochs=4).run().best.best == 0.85, "the checkpoint knows the scores of its epochs"


def test_a_finished_training_reports_that_nothing_is_left(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    done = Training(tmp_path, max_epochs=2).run()
    before = done.path.read_bytes()
    again = Training(tmp_path, max_epochs=2).run()
    assert again.epochs == []
    assert again.path.read_bytes() == before
    assert same(again.network, done.network)
    assert "has already had 2 of 2 epochs: nothing to train. Raise --max_epochs" in log.text


def test_without_resume_training_starts_from_scratch(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    done = Training(tmp_path, max_epochs=2).run()
    anew = Training(tmp_path, max_epochs=1, resume=False, header=changed_header(HEADER, variant="film2")).run()
    assert anew.epochs == [1]
    assert anew.rates == done.rates[:ITERATIONS]
    assert "Starting anew" in log.text
    assert torch.load(anew.path, weights_only=True)["epoch"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_size": 48}, "feature_size was 12 and is now 48"),
        ({"text_encoder": "clip"}, "text_encoder was minilm and is now clip"),
        ({"classes": ["spleen"]}, "classes was"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    done = Training(tmp_path, max_epochs=1).run()
    before = done.path.read_bytes()
    other = Training(tmp_path, max_epochs=2, header=changed_header(HEADER, **change))
    with pytest.raises(ValueError, match=rf"last\.pt belongs to another training: {message}.*--train::resume False"):
        other.run()
    assert other.epochs == []
    assert done.path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roi_size": [64, 64, 64]}, r"roi_size was \[96, 96, 96\] and is now \[64, 64, 64\]"),
        (
            {"batch_size": 2, "data": "4 cases (9f8e7d6c)"},
            r"data was 3 cases \(0a1b2c3d\) and is now 4 cases \(9f8e7d6c\); batch_size was 1 and is now 2",
        ),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    done = Training(tmp_path, max_epochs=1).run()
    before = done.path.read_bytes()
    with pytest.raises(ValueError, match=rf"{message}\. Set these back; .*--pretrained"):
        Training(tmp_path, max_epochs=2, settings=SETTINGS | change).run()
    assert done.path.read_bytes() == before


def test_epochs_of_another_length_keep_the_position_in_the_schedule(tmp_path: Path) -> None:
    """As on another number of GPUs: the learning rate is that of the epoch, not of the iterations so far."""
    Training(tmp_path, max_epochs=2).run()
    shorter = Training(tmp_path, max_epochs=3, cases=1).run()
    assert shorter.epochs == [3]
    assert shorter.rates == pytest.approx([0.05 * 0.9**2])
    assert shorter.trainer.state.iteration == 3


def test_settings_outside_the_network_may_change(tmp_path: Path) -> None:
    Training(tmp_path, max_epochs=1).run()
    assert Training(tmp_path, max_epochs=2, header=changed_header(HEADER, max_classes_per_prompt=1)).run().epochs == [2]
    other = Training(tmp_path, max_epochs=3)
    other.optimizer.param_groups[0]["weight_decay"] = 0.25
    assert other.run().optimizer.param_groups[0]["weight_decay"] == 0.25


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:10], lambda b: b[: len(b) // 2], lambda b: b[:-1]])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = Training(tmp_path, max_epochs=1).run().path
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"last\.pt cannot be read: .*Remove it, or pass --train::resume False"):
        Training(tmp_path, max_epochs=2).run()


def test_an_interrupted_write_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Training(tmp_path, max_epochs=1).run().path
    before = path.read_bytes()

    def killed(state: Any, file: BinaryIO) -> None:
        file.write(before[:100])
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(OSError, match="No space left"):
            Training(tmp_path, max_epochs=2).run()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert Training(tmp_path, max_epochs=2).run().epochs == [2]


def raise_in_third_epoch(training: Training, error: BaseException) -> None:
    def fail() -> None:
        raise error

    training.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2 * ITERATIONS + 1), fail)


def test_an_interrupted_training_reports_how_to_resume(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    training = Training(tmp_path, max_epochs=4)
    raise_in_third_epoch(training, KeyboardInterrupt())
    with pytest.raises(SystemExit) as exit_:
        training.run()
    assert exit_.value.code == 130
    assert "Interrupted in epoch 3. The same command goes on from there." in log.text
    assert "Traceback" not in log.text
    assert Training(tmp_path, max_epochs=4).run().epochs == [3, 4]


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    training = Training(tmp_path, max_epochs=4)
    error = ZeroDivisionError("mine")
    raise_in_third_epoch(training, error)
    with pytest.raises(ZeroDivisionError) as raised:
        training.run()
    assert raised.value is error


def test_gradients_are_clipped_before_the_step() -> None:
    def norms(*clipping: float) -> list[float]:
        network = small_network()
        trainer = SupervisedTrainer(
            device=CPU,
            max_epochs=1,
            train_data_loader=loader(),
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=1e-3),
            loss_function=nn.MSELoss(),
            train_handlers=[GradientClipping(network, limit) for limit in clipping],
        )
        seen: list[float] = []

        def remember() -> None:
            gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
            seen.append(torch.cat(gradients).norm().item())

        trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, remember)
        trainer.run()
        return seen

    free = norms()
    assert min(free) > 0.5
    assert norms(0.5) == pytest.approx([0.5] * ITERATIONS, rel=1e-4)
    assert norms(1e6) == free


def test_a_step_without_finite_gradients_is_skipped(log: pytest.LogCaptureFixture) -> None:
    network = small_network()
    before = [parameter.clone() for parameter in network.parameters()]
    images = torch.full((running.MOST_SKIPPED, 1, 4, 4, 4), torch.nan)
    images[1] = 1.0
    items = [{"image": image, "label": torch.ones(1, 4, 4, 4)} for image in images]
    trainer = SupervisedTrainer(
        device=CPU,
        max_epochs=2,
        train_data_loader=DataLoader(Dataset(items), batch_size=1),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.1),
        loss_function=nn.MSELoss(),
        train_handlers=[GradientClipping(network, 1.0)],
    )
    trainer.run()
    after = list(network.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True)), "the finite step is taken"
    skipped = log.text.count("is skipped: its gradients are not finite")
    assert skipped == 2 * (running.MOST_SKIPPED - 1), "a finite step begins the count anew"
    trainer.state.max_epochs = 3
    items[1]["image"] = items[0]["image"]
    with pytest.raises(FloatingPointError, match=r"smaller --learning_rate \(or --amp False\); --pretrained"):
        trainer.run()


@pytest.mark.parametrize("limit", [0.0, -1.0])
def test_a_norm_that_is_not_positive_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match=f"max_norm must be positive, not {limit}"):
        GradientClipping(small_network(), limit)


def test_progress_shows_description_and_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = Training(tmp_path, max_epochs=1)
    Progress("training", loss=True).attach(training.trainer)
    training.run()
    shown = capsys.readouterr().err
    assert "training" in shown
    assert "loss=" in shown


def test_processes_with_different_checkpoints_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where every node has its own --ckpt_dir."""
    monkeypatch.setattr(idist, "all_gather", lambda epoch: [epoch, 3])
    with pytest.raises(ValueError, match=r"they find epochs \[0, 3\].*--ckpt_dir must be one folder"):
        Training(tmp_path, max_epochs=1).run()


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    Training(tmp_path, max_epochs=1).run()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    state.pop("settings")
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"no checkpoint of this version. Keep it and pass another --ckpt_dir"):
        Training(tmp_path, max_epochs=2).run()
