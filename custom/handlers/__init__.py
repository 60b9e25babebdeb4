"""Ignite handlers of training and validation."""

from custom.handlers.checkpoint import BestWeights, TrainingCheckpoint
from custom.handlers.tensorboard import TrainingCurves, ValidationCurves
from custom.handlers.training import GradientClipping, Interruption, Progress, Validation

__all__ = [
    "BestWeights",
    "GradientClipping",
    "Interruption",
    "Progress",
    "TrainingCheckpoint",
    "TrainingCurves",
    "Validation",
    "ValidationCurves",
]
