"""Ignite handlers of training and validation.

``checkpoint`` saves the best weights and the state from which a training resumes, ``training`` validates, clips
gradients, shows progress and schedules the learning rate, ``tensorboard`` logs curves. Handlers of evaluation alone
are in ``custom.evaluation``.

To add a handler: a class with ``attach(engine)`` in one of these modules or a new one, its name below, and its entry in
the list ``handlers`` under ``train`` or ``validate`` of a bundle's ``train.json``; their order is that of the calls.
"""

from custom.handlers.checkpoint import BestWeights, TrainingCheckpoint
from custom.handlers.tensorboard import TrainingCurves, ValidationCurves
from custom.handlers.training import GradientClipping, Interruption, Progress, Validation, warmup_cosine_schedule

__all__ = [
    "BestWeights",
    "GradientClipping",
    "Interruption",
    "Progress",
    "TrainingCheckpoint",
    "TrainingCurves",
    "Validation",
    "ValidationCurves",
    "warmup_cosine_schedule",
]
