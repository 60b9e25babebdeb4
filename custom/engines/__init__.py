"""An inference run: which prompts of which images, what is done already, one bad image, the report."""

from custom.engines.evaluator import ImageByImageEvaluator
from custom.engines.report import RunReport
from custom.engines.requests import QuestionDataset, list_questions
from custom.engines.resume import describe_recipe, unanswered

__all__ = ["ImageByImageEvaluator", "QuestionDataset", "RunReport", "describe_recipe", "list_questions", "unanswered"]
