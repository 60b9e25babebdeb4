"""The learning rate over a training."""

import torch
from monai.optimizers import WarmupCosineSchedule


def warmup_cosine_schedule(
    optimizer: torch.optim.Optimizer, *, warmup_epochs: int, max_epochs: int, epoch_length: int
) -> WarmupCosineSchedule:
    """A linear rise from a hundredth of the rate, then a cosine to zero; stepped every iteration.

    Args:
        optimizer: whose rates follow it.
        warmup_epochs: length of the rise, at most a tenth of the training.
        max_epochs: length of the training.
        epoch_length: iterations of an epoch.
    """
    warmup = min(warmup_epochs, max_epochs // 10)
    return WarmupCosineSchedule(
        optimizer, warmup_steps=warmup * epoch_length, t_total=max_epochs * epoch_length, warmup_multiplier=0.01
    )
