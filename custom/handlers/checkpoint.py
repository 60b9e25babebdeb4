"""Ignite handlers that keep what a training has reached: its best weights, and all that it needs to go on."""

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
from custom.weights.io import differing_keys, find_state, read_weights, run_provenance, save_weights

logger = logging.getLogger(__name__)


class BestWeights:
    """Evaluator handler: writes the network's weights whenever its key metric is better than ever.

    Where an export left the same weights as ``model.pt`` beside them, which MONAI's own tools load, both are written.

    Args:
        network: whose weights are kept.
        path: where to (.safetensors).
        header: see ``custom.weights.io.describe_weights``.
    """

    def __init__(self, network: nn.Module, path: str | Path, *, header: Mapping[str, Any]) -> None:
        self.network = network
        self.path = Path(path)
        self.header = header
        self.best = float("-inf")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._keep)

    def _keep(self, engine: Any) -> None:
        name = engine.state.key_metric_name
        value = float(engine.state.metrics[name])
        epoch = engine.state.epoch  # the trainer's: ValidationHandler passes it on
        if not value > self.best:  # NaN is no improvement
            logger.info("Epoch %d: %s %.4f; best so far %.4f.", epoch, name, value, self.best)
            return
        self.best = value
        if idist.get_rank() > 0:
            return
        provenance = {
            **run_provenance(),
            "epoch": epoch,
            "validation": {key: float(figure) for key, figure in engine.state.metrics.items()},
        }
        state = find_state(self.path)
        save_weights(self.network, self.path, header=self.header, provenance=provenance)
        if state is not None:
            save_state(read_weights(self.path)[0], state)
        elif (other := self.path.with_suffix(".pt")).exists():
            logger.warning("%s holds other weights than these, and stays as it is.", other)
        logger.info("Epoch %d: %s %.4f, the best so far; weights written to %s.", epoch, name, value, self.path)


class TrainingCheckpoint:
    """Trainer handler: after every epoch, all that is needed to go on; at the start, going on.

    With ``resume`` an existing checkpoint is continued: network, optimizer, epoch, place in the schedule and best
    score. One of another network, text encoder, class set or recipe is refused. What the recipe leaves out may change:
    the length of the training and of its epochs, learning rate and weight decay, folders, device, number of processes.
    Without ``resume`` training starts anew and replaces it after the first epoch. The file is written whole, so a kill
    never costs more than the running epoch.

    Args:
        path: the checkpoint file; all processes read it, the first writes it.
        resume: continue from it where it exists.
        header: see ``custom.weights.io.describe_weights``; must equal the checkpoint's.
        recipe: further settings by name, and what they stand for, that must equal the checkpoint's.
        network: its state is kept.
        optimizer: likewise.
        lr_scheduler: stepped every iteration; its place is kept, not its rates.
        best_weights: its best score is kept.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        resume: bool,
        header: Mapping[str, Any],
        recipe: Mapping[str, Any],
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: torch.optim.lr_scheduler.LambdaLR,
        best_weights: BestWeights,
    ) -> None:
        self.path = Path(path)
        self.resume = resume
        self.header = dict(header)
        self.recipe = json.loads(json.dumps(dict(recipe)))
        self.parts: dict[str, Any] = {"network": network, "optimizer": optimizer}
        self.lr_scheduler = lr_scheduler
        self.best_weights = best_weights

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {
            "header": self.header,
            "recipe": self.recipe,
            "epoch": engine.state.epoch,
            "best": self.best_weights.best,
        }
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())  # on the disk before it takes the place of the last one

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
                logger.info("Starting anew: %s will be replaced after the first epoch (--resume False).", self.path)
            return
        decay = [group["weight_decay"] for group in self.parts["optimizer"].param_groups]
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        groups = self.parts["optimizer"].param_groups
        for group, value in zip(groups, decay, strict=True):
            group["weight_decay"] = value  # the setting's, as with the learning rate
        epoch, loader = state["epoch"], engine.state.dataloader
        # Other cases, crops and prompts than those of the first epochs.
        seed = (torch.initial_seed() + epoch) % 2**32
        torch.manual_seed(seed)
        set_rnd(loader.dataset, seed=seed)
        if isinstance(loader.sampler, CaseSampler):
            loader.sampler.set_epoch(epoch)
        # The position only, by epochs: the schedule itself follows the settings, so that a longer --max_epochs
        # stretches it, and another number of processes, whose epochs have other lengths, does not shift it.
        engine.state.epoch = epoch
        engine.state.iteration = self.lr_scheduler.last_epoch = epoch * engine.state.epoch_length
        schedule = zip(groups, self.lr_scheduler.base_lrs, self.lr_scheduler.lr_lambdas, strict=True)
        for group, rate, factor in schedule:
            group["lr"] = rate * factor(self.lr_scheduler.last_epoch)
        if self.best_weights.path.is_file():
            self.best_weights.best = state["best"]
        elif state["best"] > float("-inf"):  # else no weights might be written any more
            logger.warning(
                "%s is not there, the best weights so far (score %.4f): the next validation's are written, whatever "
                "their score.", self.best_weights.path, state["best"]
            )  # fmt: skip
        if engine.state.max_epochs is not None and epoch >= engine.state.max_epochs:
            logger.warning(
                "%s has already had %d of %d epochs: nothing to train. Raise --max_epochs to go on, or pass "
                "--resume False to train anew.", self.path, epoch, engine.state.max_epochs
            )  # fmt: skip
            return
        logger.info("Resuming after epoch %d from %s (--resume False trains anew).", epoch, self.path)

    def _read(self) -> dict[str, Any]:
        """The checkpoint's content, if this run may go on from it."""
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise ValueError(
                f"The checkpoint {self.path} cannot be read: {error}. Remove it, or pass --resume False."
            ) from error
        if not {"header", "recipe", *self.parts} <= state.keys():
            raise ValueError(
                f"{self.path} is no checkpoint of this version. Keep it and pass another --ckpt_dir, with --pretrained "
                "to start from the weights beside it; or pass --resume False to replace it."
            )
        held, recipe = state["header"], state["recipe"]
        here = self.header | self.recipe
        differing = differing_keys(held, self.header)
        differing += [key for key in {**recipe, **self.recipe} if recipe.get(key) != self.recipe.get(key)]
        if differing:
            held |= recipe
            detail = "; ".join(f"{key} was {held.get(key)} and is now {here.get(key)}" for key in differing)
            raise ValueError(
                f"The checkpoint {self.path} belongs to another training: {detail}. Set these back; or pass --resume "
                "False to train anew in its place, or another --ckpt_dir to keep both (and --pretrained to start from "
                "its weights)."
            )
        return state
