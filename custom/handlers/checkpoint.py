"""Ignite handlers that save a training's best weights and the checkpoint from which it resumes."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from torch import nn

from custom.datasets.samplers import CaseSampler
from custom.utils.files import atomic_write, save_state
from custom.weights.header import differing_settings, read_header, run_provenance
from custom.weights.io import find_state, read_weights, save_weights

logger = logging.getLogger(__name__)


class BestWeights:
    """Evaluator handler: saves the network's weights to a .safetensors file whenever the key metric improves.

    If the file has a ``model.pt`` with the same weights beside it, as in an exported bundle, both are written.
    ``header`` is that of ``custom.weights.volume.describe_volume_weights``, and ``data`` says what the training learns
    from (``custom.datasets.Cases.describe``): it stands in the header, and beside every mask that the weights predict.
    """

    def __init__(
        self, network: nn.Module, path: str | Path, *, header: Mapping[str, Any], data: Mapping[str, Any]
    ) -> None:
        self.network = network
        self.path = Path(path)
        self.header = header
        self.data = dict(data)
        self.best = float("-inf")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save_if_better)

    def resume(self, best: float, epoch: int) -> None:
        """Go on with the best score of a checkpoint after ``epoch``, or with that of weights written since then."""
        self.best = best
        try:
            provenance = read_header(self.path)["provenance"]
            if provenance["epoch"] > epoch:  # the training was killed after them and before its next checkpoint
                self.best = max(best, float(provenance["score"]))
        except (KeyError, TypeError, ValueError):  # of an earlier version
            logger.debug("%s states no score.", self.path)

    def _save_if_better(self, engine: Any) -> None:
        name = engine.state.key_metric_name
        value = float(engine.state.metrics[name])
        epoch = engine.state.epoch  # the trainer's: ValidationHandler passes it on
        if not value > self.best:  # NaN is no improvement
            logger.info("Epoch %d: %s %.4f; best so far %.4f.", epoch, name, value, self.best)
            return
        self.best = value
        if idist.get_rank() > 0:
            return
        metrics = {key: float(figure) for key, figure in engine.state.metrics.items()}
        provenance = run_provenance() | {"epoch": epoch, "score": value, "validation": metrics}
        provenance |= {"data": self.data}
        state = find_state(self.path)
        save_weights(self.network, self.path, header=self.header, provenance=provenance)
        if state is not None:
            save_state(read_weights(self.path)[0], state)
        elif (other := self.path.with_suffix(".pt")).exists():
            logger.warning("%s holds other weights than these and is left unchanged.", other)
        logger.info("Epoch %d: %s %.4f, the best so far; weights written to %s.", epoch, name, value, self.path)


class TrainingCheckpoint:
    """Trainer handler: saves a checkpoint after every epoch, and resumes from it at the start.

    With ``resume`` an existing checkpoint is continued: network, optimizer, epoch, position in the schedule and best
    score. What ``header`` and ``settings`` leave out may change: number and length of epochs, learning rate and weight
    decay, folders, device, number of processes. Without ``resume`` training starts from scratch and replaces the
    checkpoint after the first epoch. Writing is atomic, so an interruption costs the running epoch at most.

    Args:
        path: the checkpoint file; all processes read it, the first writes it.
        header: see ``custom.weights.volume.describe_volume_weights``; must equal the checkpoint's.
        settings: further settings, or objects of them, by their path in the config; must equal the checkpoint's.
        network: its state is saved, as are the optimizer's and the best score of ``best_weights``.
        lr_scheduler: stepped every iteration; its position is saved, not its rates.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        resume: bool,
        header: Mapping[str, Any],
        settings: Mapping[str, Any],
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: torch.optim.lr_scheduler.LambdaLR,
        best_weights: BestWeights,
    ) -> None:
        self.path = Path(path)
        self.resume = resume
        self.header = dict(header)
        flat = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
        flat |= {f"{key}::{k}": v for key, part in settings.items() if key not in flat for k, v in part.items()}
        self.settings = json.loads(json.dumps(flat))
        self.parts: dict[str, Any] = {"network": network, "optimizer": optimizer}
        self.lr_scheduler = lr_scheduler
        self.best_weights = best_weights

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        state = {"header": self.header, "settings": self.settings, "epoch": engine.state.epoch}
        state |= {"best": self.best_weights.best} | {name: part.state_dict() for name, part in self.parts.items()}
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())  # on the disk before it replaces the previous one

    def _load(self, engine: Engine) -> None:
        state = self._read() if self.resume and self.path.is_file() else None
        epochs: Any = idist.all_gather(state["epoch"] if state else 0)
        if len(set(epochs)) > 1:
            raise ValueError(
                f"All processes must go on from one checkpoint; in {self.path} they find epochs {epochs} (0: none). "
                "--ckpt_dir must be one folder that all nodes share."
            )
        if state is None:
            if self.path.is_file():
                logger.info(
                    "Starting anew: %s will be replaced after the first epoch (--train::resume False).", self.path
                )
            return
        self._restore(state, engine)
        epoch = state["epoch"]
        if engine.state.max_epochs is not None and epoch >= engine.state.max_epochs:
            logger.warning(
                "%s has already had %d of %d epochs: nothing to train. Raise --max_epochs to go on, or pass "
                "--train::resume False to train anew.", self.path, epoch, engine.state.max_epochs
            )  # fmt: skip
        else:
            logger.info("Resuming after epoch %d from %s (--train::resume False trains anew).", epoch, self.path)

    def _restore(self, state: Mapping[str, Any], engine: Engine) -> None:
        decay = [group["weight_decay"] for group in self.parts["optimizer"].param_groups]
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        epoch, loader = state["epoch"], engine.state.dataloader
        # Other cases, crops and prompts than in the first epochs.
        seed = (torch.initial_seed() + epoch) % 2**32
        torch.manual_seed(seed)
        set_rnd(loader.dataset, seed=seed)
        if isinstance(loader.sampler, CaseSampler):
            loader.sampler.set_epoch(epoch)
        # Only the position in epochs is restored; rates and weight decay follow the settings. A longer --max_epochs
        # stretches the schedule, and another number of processes, whose epochs differ in length, does not shift it.
        engine.state.epoch = epoch
        engine.state.iteration = self.lr_scheduler.last_epoch = epoch * engine.state.epoch_length
        schedule = zip(self.lr_scheduler.base_lrs, self.lr_scheduler.lr_lambdas, decay, strict=True)
        for group, (rate, factor, value) in zip(self.parts["optimizer"].param_groups, schedule, strict=True):
            group.update(lr=rate * factor(self.lr_scheduler.last_epoch), weight_decay=value)
        if self.best_weights.path.is_file():
            self.best_weights.resume(state["best"], epoch)
        elif state["best"] > float("-inf"):  # without the file, any score is an improvement
            logger.warning(
                "%s is not there, the best weights so far (score %.4f): the next validation's are written, whatever "
                "their score.", self.best_weights.path, state["best"]
            )  # fmt: skip

    def _read(self) -> dict[str, Any]:
        """The checkpoint's content, if this run may resume from it."""
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise ValueError(
                f"The checkpoint {self.path} cannot be read: {error}. Remove it, or pass --train::resume False."
            ) from error
        if not {"header", "settings", *self.parts} <= state.keys() or "settings" not in state["header"]:
            raise ValueError(
                f"{self.path} is no checkpoint of this version. Keep it and pass another --ckpt_dir, with --pretrained "
                "to start from the weights beside it; or pass --train::resume False to replace it."
            )
        saved, current = state["settings"], self.settings
        differing = differing_settings(state["header"], self.header)
        differing |= {k: (saved.get(k), current.get(k)) for k in saved | current if saved.get(k) != current.get(k)}
        if differing:
            detail = "; ".join(f"{key} was {there} and is now {now}" for key, (there, now) in differing.items())
            raise ValueError(
                f"The checkpoint {self.path} belongs to another training: {detail}. Set these back; or pass "
                "--train::resume False to train anew in its place, or another --ckpt_dir to keep both (and "
                "--pretrained to start from its weights)."
            )
        return state
