"""What inference leaves on disk: masks, a merged map, a summary, a picture; tables and pictures of an evaluation."""

from custom.outputs.answered import RunReport, describe_recipe, unanswered
from custom.outputs.comparison import ComparisonPictures
from custom.outputs.scores import EvaluationReport
from custom.outputs.segmentation import OutputError, WriteSegmentationd, check_outputs

__all__ = [
    "ComparisonPictures",
    "EvaluationReport",
    "OutputError",
    "RunReport",
    "WriteSegmentationd",
    "check_outputs",
    "describe_recipe",
    "unanswered",
]
