"""Voxels counted under every prompt, final masks measured, both scored, reported and pictured."""

from custom.evaluation.pictures import ComparisonPictures
from custom.evaluation.report import EvaluationReport
from custom.evaluation.scoring import PromptDice
from custom.evaluation.surface_metrics import SurfaceMetrics
from custom.evaluation.voxel_counts import PromptEvaluationStep

__all__ = ["ComparisonPictures", "EvaluationReport", "PromptDice", "PromptEvaluationStep", "SurfaceMetrics"]
