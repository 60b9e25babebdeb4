"""Losses, a file each.

To add a loss: its file, its name below, and ``loss`` in a bundle's ``train.json``. Its property ``settings`` is what a
checkpoint compares when a training resumes; ``custom.handlers.TrainingCurves`` logs its ``terms``.
"""

from custom.losses.partial_label import PartialLabelLoss

__all__ = ["PartialLabelLoss"]
