"""Voxels counted under every prompt, final masks measured, both scored, reported and pictured."""

from custom.evaluation.counting import PromptEvaluationStep
from custom.evaluation.measuring import SurfaceMetrics
from custom.evaluation.pictures import ComparisonPictures
from custom.evaluation.report import EvaluationReport
from custom.evaluation.scoring import PromptDice

__all__ = ["ComparisonPictures", "EvaluationReport", "PromptDice", "PromptEvaluationStep", "SurfaceMetrics"]
