"""Ignite handlers: keep the best weights, resume, show progress and curves, clip gradients."""

from custom.handlers.checkpoint import BestWeights, TrainingCheckpoint
from custom.handlers.curves import TrainingCurves, ValidationCurves
from custom.handlers.running import GradientClipping, Interruption, Progress, Validation

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
