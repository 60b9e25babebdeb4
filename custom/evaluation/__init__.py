"""Voxels counted under every prompt, final masks measured, both scored, reported and pictured."""

from custom.evaluation.counting import CountPrompts
from custom.evaluation.measuring import MeasureAnswers
from custom.evaluation.pictures import ComparisonPictures
from custom.evaluation.report import EvaluationReport
from custom.evaluation.scoring import PromptDice

__all__ = ["ComparisonPictures", "CountPrompts", "EvaluationReport", "MeasureAnswers", "PromptDice"]
