"""Evaluation: voxel counts under every prompt, metrics of the final masks, scores, reports and pictures.

``PromptEvaluationStep`` counts voxels in the raw logits and keeps one mask of each class. ``SurfaceMetrics``
post-processes the masks and measures them. ``scoring`` averages both over cases and classes; ``EvaluationReport`` and
``ComparisonPictures`` write the results, of which ``comparison`` compares several.

To add a metric of the final masks: a field of ``CaseMetrics``, computed in ``SurfaceMetrics``; its mean over cases in
``scoring.Score`` (and ``MEANS``); columns in ``report.FINAL_COLUMNS`` and ``CASE_COLUMNS``, and in
``comparison.FIGURES`` to compare it.
"""

from custom.evaluation.pictures import ComparisonPictures
from custom.evaluation.report import EvaluationReport
from custom.evaluation.scoring import PromptDice
from custom.evaluation.surface_metrics import SurfaceMetrics
from custom.evaluation.voxel_counts import PromptEvaluationStep

__all__ = ["ComparisonPictures", "EvaluationReport", "PromptDice", "PromptEvaluationStep", "SurfaceMetrics"]
