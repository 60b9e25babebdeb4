"""Ignite handlers of a training: validation, interruption, gradient clipping, progress; and its learning rate."""

import logging
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines.utils import IterationEvents
from monai.handlers import ValidationHandler
from monai.optimizers import WarmupCosineSchedule
from monai.utils import CommonKeys
from torch import nn

logger = logging.getLogger(__name__)

#: This many steps in a row without finite gradients end the training.
MOST_SKIPPED = 20


class Validation(ValidationHandler):
    """MONAI's ValidationHandler, which validates every ``interval`` epochs, and after the last one in any case."""

    def __init__(self, validator: Any, interval: int) -> None:
        super().__init__(interval=interval, validator=validator, epoch_level=True)

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._validate_last)

    def __call__(self, engine: Engine) -> None:
        super().__call__(engine)
        self.validator.state.output = self.validator.state.batch = None  # frees the GPU memory of a volume

    def _validate_last(self, engine: Engine) -> None:
        if engine.state.epoch == engine.state.max_epochs and engine.state.epoch % self.interval:
            self(engine)


class Interruption:
    """Trainer handler: on Ctrl-C ends with a hint how to resume and exit code 130 instead of a traceback.

    List it first: Ignite calls only one handler of an exception, and StatsHandler has one too.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._explain)

    def _explain(self, engine: Engine, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            logger.warning("Interrupted in epoch %d. The same command goes on from there.", engine.state.epoch)
            raise SystemExit(130) from None
        raise error


class GradientClipping:
    """Trainer handler: clips gradients to an L2 norm of ``max_norm`` over all parameters before the optimizer steps.

    A step without finite gradients is skipped with a warning; ``MOST_SKIPPED`` of them in a row end the training.
    """

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        if max_norm <= 0:
            raise ValueError(f"max_norm must be positive, not {max_norm}.")
        self.network = network
        self.max_norm = max_norm
        self.skipped = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, engine: Engine) -> None:
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        if norm.isfinite():
            self.skipped = 0
            return
        self.network.zero_grad(set_to_none=True)  # the optimizer skips parameters without a gradient
        self.skipped += 1
        logger.warning("Step %d is skipped: its gradients are not finite.", engine.state.iteration)
        if self.skipped == MOST_SKIPPED:
            raise FloatingPointError(
                f"The gradients of {MOST_SKIPPED} steps in a row were not finite: the training has diverged, and its "
                "last checkpoint with it. Train in another --ckpt_dir with a smaller --learning_rate (or --amp False); "
                "--pretrained with the model.safetensors of this one starts from its best weights."
            )


class Progress:
    """Handler: Ignite's progress bar over the iterations of an epoch, with the loss where ``loss`` is true."""

    def __init__(self, description: str, *, loss: bool = False) -> None:
        self.description = description
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            transform = (lambda output: {"loss": float(output[0][CommonKeys.LOSS])}) if self.loss else None
            ProgressBar(desc=self.description).attach(engine, output_transform=transform)


def warmup_cosine_schedule(
    optimizer: torch.optim.Optimizer, *, warmup_epochs: int, max_epochs: int, epoch_length: int
) -> WarmupCosineSchedule:
    """A linear rise from a hundredth of the rate, then a cosine to zero; stepped every iteration.

    The rise takes ``warmup_epochs``, but at most a tenth of the training.
    """
    warmup = min(warmup_epochs, max_epochs // 10)
    return WarmupCosineSchedule(
        optimizer, warmup_steps=warmup * epoch_length, t_total=max_epochs * epoch_length, warmup_multiplier=0.01
    )
