"""Ignite handlers that log a training to TensorBoard."""

import math
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from matplotlib.image import imread
from monai.utils import CommonKeys
from torch.utils.tensorboard import SummaryWriter

from custom.anatomy.class_set import ClassSet
from custom.evaluation.pictures import Case, case_of, write_comparison
from custom.evaluation.scoring import score
from custom.evaluation.voxel_counts import VoxelCounts
from custom.losses.partial_label import PartialLabelLoss
from custom.utils.distributed import gather_cases


class TrainingCurves:
    """Trainer handler: logs the mean loss of every epoch, its terms for each data set, and the learning rate.

    Tags: ``train/loss``, ``train/cross_entropy/<data set>``, ``train/dice_loss/<data set>`` (means over labelled pairs
    of all processes) and ``train/learning_rate``; the step is the epoch.
    """

    def __init__(self, output_dir: str | Path, *, loss: PartialLabelLoss, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(loss, PartialLabelLoss):
            raise ValueError(
                f"The loss must be custom.losses.PartialLabelLoss or derived from it, not {type(loss).__name__}: the "
                "targets leave unlabelled structures open, which other losses would take for background. Its settings "
                "(docs/training.md) weigh cross-entropy and Dice."
            )
        self.output_dir = output_dir
        self.loss = loss
        self.optimizer = optimizer
        self.writer: SummaryWriter | None = None
        self.values: dict[str, list[float]] = defaultdict(list)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._draw)

    def _collect(self, engine: Engine) -> None:
        self.values["train/loss"].append(float(engine.state.output[0][CommonKeys.LOSS]))
        names = [str(item.get("dataset", "all")) for item in engine.state.batch]  # decollated
        samples, cross_entropy, dice = (term.tolist() for term in self.loss.terms)
        for sample, *terms in zip(samples, cross_entropy, dice, strict=True):
            for term, value in zip(("cross_entropy", "dice_loss"), terms, strict=True):
                if not math.isnan(value):
                    self.values[f"train/{term}/{names[sample]}"].append(value)

    def _draw(self, engine: Engine) -> None:
        gathered: Any = idist.all_gather(dict(self.values))
        self.values.clear()
        if idist.get_rank() == 0:
            self.writer = self.writer or SummaryWriter(self.output_dir)
            for tag in sorted(set().union(*gathered)):
                values = [value for of_process in gathered for value in of_process.get(tag, ())]
                self.writer.add_scalar(tag, sum(values) / len(values), engine.state.epoch)
            self.writer.add_scalar("train/learning_rate", self.optimizer.param_groups[0]["lr"], engine.state.epoch)
            self.writer.flush()


class ValidationCurves:
    """Evaluator handler: logs the metrics of every validation, the Dice of each class, and a picture of the first case.

    Tags: ``validation/<metric>``, ``validation/dice/<class>`` (requested alone, mean over the cases that hold it) and
    the picture ``validation/overlay`` (image, truth, prediction); the step is the trainer's epoch.
    """

    def __init__(self, output_dir: str | Path, *, class_set: ClassSet) -> None:
        self.output_dir = output_dir
        self.class_set = class_set
        self.writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._draw)

    def _start(self, engine: Engine) -> None:
        self.counts: list[VoxelCounts] = []
        self.shown: Case | None = None

    def _collect(self, engine: Engine) -> None:
        self.counts += engine.state.output[CommonKeys.PRED]
        if idist.get_rank() == 0 and self.shown is None:
            self.shown = case_of(engine.state.output, self.class_set)

    def _draw(self, engine: Engine) -> None:
        counts = gather_cases(self.counts)
        if idist.get_rank() > 0:
            return
        epoch = engine.state.epoch
        writer = self.writer = self.writer or SummaryWriter(self.output_dir)
        for name, value in engine.state.metrics.items():
            writer.add_scalar(f"validation/{name}", value, epoch)
        for row in score(counts, self.class_set)[:-1]:
            writer.add_scalar(f"validation/dice/{row.name}", row.dice, epoch)
        if self.shown is not None:
            with TemporaryDirectory() as folder:
                picture = Path(folder) / "overlay.png"
                write_comparison(self.shown, self.class_set, picture, title=f"{self.shown.name}, epoch {epoch}")
                writer.add_image("validation/overlay", imread(picture)[..., :3], epoch, dataformats="HWC")
        writer.flush()
