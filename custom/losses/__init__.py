"""Losses."""

from custom.losses.partial_label import PartialLabelLoss

__all__ = ["PartialLabelLoss"]
