"""How well prompts are answered: raw logits counted, final answers measured, both scored and compared."""

from custom.evaluation.counting import ALL, ANSWERS, Count, CountPrompts, answering
from custom.evaluation.measuring import MEASURED, Answer, MeasureAnswers, raw_answers, surface_figures
from custom.evaluation.scoring import PromptDice, Score, Scores, score, score_datasets

__all__ = [
    "ALL",
    "ANSWERS",
    "MEASURED",
    "Answer",
    "Count",
    "CountPrompts",
    "MeasureAnswers",
    "PromptDice",
    "Score",
    "Scores",
    "answering",
    "raw_answers",
    "score",
    "score_datasets",
    "surface_figures",
]
