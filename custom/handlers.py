"""Ignite handlers: keep the best weights, resume, show progress, clip gradients."""

import logging
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.data.utils import set_rnd
from monai.engines.utils import IterationEvents
from monai.handlers import ValidationHandler
from monai.utils import CommonKeys
from torch import nn

from custom.files import whole_file
from custom.weights import differing_keys, made_here, save_weights

logger = logging.getLogger(__name__)


class BestWeights:
    """Evaluator handler: writes the network's weights whenever its key metric is better than ever.

    Args:
        network: whose weights are kept.
        path: where to (.safetensors).
        header: see ``custom.weights.describe_weights``.
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
        provenance = {
            **made_here(),
            "epoch": epoch,
            "validation": {key: float(figure) for key, figure in engine.state.metrics.items()},
        }
        save_weights(self.network, self.path, header=self.header, provenance=provenance)
        logger.info("Epoch %d: %s %.4f, the best so far; weights written to %s.", epoch, name, value, self.path)


class Validation(ValidationHandler):
    """MONAI's ValidationHandler that never leaves the last epoch out, whatever the interval.

    Args:
        validator: the evaluator to run.
        interval: epochs between validations.
    """

    def __init__(self, validator: Any, interval: int) -> None:
        super().__init__(interval=interval, validator=validator, epoch_level=True)

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._validate_last)

    def _validate_last(self, engine: Engine) -> None:
        if engine.state.epoch == engine.state.max_epochs and engine.state.epoch % self.interval:
            self(engine)


class Interruption:
    """Trainer handler: Ctrl-C ends with a word on how to go on and exit code 130, not with a traceback.

    List it first: Ignite calls one handler of an exception only, and a StatsHandler has one too.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._explain)

    def _explain(self, engine: Engine, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            logger.warning("Interrupted in epoch %d. The same command goes on from there.", engine.state.epoch)
            raise SystemExit(130) from None
        raise error


class TrainingCheckpoint:
    """Trainer handler: after every epoch, all that is needed to go on; at the start, going on.

    With ``resume`` an existing checkpoint is continued: network, optimizer, scheduler, epoch and best score. One of
    another network, text encoder or class set is refused. Without ``resume`` training starts anew and replaces it
    after the first epoch. The file is written whole, so a kill never costs more than the running epoch.

    Args:
        path: the checkpoint file.
        resume: continue from it where it exists.
        header: see ``custom.weights.describe_weights``; must equal the checkpoint's.
        network: its state is kept.
        optimizer: likewise.
        lr_scheduler: likewise.
        best_weights: its best score is kept.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        resume: bool,
        header: Mapping[str, Any],
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any,
        best_weights: BestWeights,
    ) -> None:
        self.path = Path(path)
        self.resume = resume
        self.header = dict(header)
        self.parts: dict[str, Any] = {"network": network, "optimizer": optimizer}
        self.lr_scheduler = lr_scheduler
        self.best_weights = best_weights

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {
            "header": self.header,
            "scheduled": self.lr_scheduler.last_epoch,
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best": self.best_weights.best,
        }
        with whole_file(self.path) as temporary:
            torch.save(state, temporary)

    def _load(self, engine: Engine) -> None:
        if not self.path.is_file():
            return
        if not self.resume:
            logger.info("Starting anew: %s will be replaced after the first epoch (--resume False).", self.path)
            return
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            held = state["header"]
        except (UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
            raise ValueError(
                f"The checkpoint {self.path} cannot be read: {error}. Remove it, or pass --resume False."
            ) from error
        if differing := differing_keys(held, self.header):
            detail = "; ".join(f"{key} was {held.get(key)} and is now {self.header.get(key)}" for key in differing)
            raise ValueError(
                f"The checkpoint {self.path} belongs to another network: {detail}. Set these back, pass --resume False "
                "to train anew in its place, or another --ckpt_dir to keep both."
            )
        decay = [group["weight_decay"] for group in self.parts["optimizer"].param_groups]
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for group, value in zip(self.parts["optimizer"].param_groups, decay, strict=True):
            group["weight_decay"] = value  # the knob's, as with the learning rate
        # Other crops and prompts than those of the first epochs.
        seed = (torch.initial_seed() + state["epoch"]) % 2**32
        torch.manual_seed(seed)
        set_rnd(engine.state.dataloader.dataset, seed=seed)
        # The position only: the schedule itself follows the knobs, so that a longer --max_epochs stretches it.
        self.lr_scheduler.last_epoch = state["scheduled"]
        self.best_weights.best = state["best"]
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["iteration"]
        if engine.state.max_epochs is not None and state["epoch"] >= engine.state.max_epochs:
            logger.warning(
                "%s has already had %d of %d epochs: nothing to train. Raise --max_epochs to go on, or pass "
                "--resume False to train anew.", self.path, state["epoch"], engine.state.max_epochs
            )  # fmt: skip
            return
        logger.info("Resuming after epoch %d from %s (--resume False trains anew).", state["epoch"], self.path)


class GradientClipping:
    """Trainer handler: scales gradients down to a total norm before the optimizer steps.

    Args:
        network: whose gradients.
        max_norm: largest L2 norm over all parameters.
    """

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        if max_norm <= 0:
            raise ValueError(f"max_norm must be positive, not {max_norm}.")
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, engine: Engine) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class Progress:
    """Handler: Ignite's progress bar over the iterations of an epoch.

    Args:
        description: what is counted.
        loss: show the loss beside it.
    """

    def __init__(self, description: str, *, loss: bool = False) -> None:
        self.description = description
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        bar = ProgressBar(desc=self.description)
        transform = (lambda output: {"loss": float(output[0][CommonKeys.LOSS])}) if self.loss else None
        bar.attach(engine, output_transform=transform)
