"""Scores of each class and of all, from the voxel counts and metrics of every case."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ignite.metrics import Metric
from monai.utils import CommonKeys

from custom.anatomy.class_set import ClassSet
from custom.evaluation.surface_metrics import CaseMetrics
from custom.evaluation.voxel_counts import ALL, VoxelCounts
from custom.utils.distributed import gather_cases

#: Fields of the overall ``Score`` that are means over the classes.
MEANS = ("dice", "dice_dataset", "wrong_prompt_dice", "false_positive_ml", "final_dice", "nsd", "hd95")


@dataclass(frozen=True)
class Score:
    """Scores of one class, or of all, under one wording; NaN where there is nothing to score.

    Attributes:
        cases: volumes in which the class is present.
        dice: mean Dice over those, under prompts that name the class alone; together with others where none does (a
            network that does not read prompts).
        dice_dataset: the same under the data set's sentence, which in a data set of one class names that class alone.
        wrong_prompt_dice: mean Dice of the class's channel under prompts that name another class alone; ideally 0.
        leakage: predicted over true voxels of the class under prompts that name another class alone; ideally 0, and
            about 1 for a network that ignores text.
        false_positive_ml: mean volume predicted in cases where the class is absent, under prompts that name it alone.
        final_dice: mean Dice of the final masks, which may be post-processed.
        nsd: their mean normalized surface Dice.
        hd95: their mean HD95 in mm, over the volumes in which the class was found.
        missed: volumes that hold the class, where no voxel of it was predicted.
    """

    name: str
    cases: int
    dice: float
    dice_dataset: float
    wrong_prompt_dice: float
    leakage: float
    false_positive_ml: float
    final_dice: float
    nsd: float
    hd95: float
    missed: int


def score_datasets(
    counts: Sequence[VoxelCounts], metrics: Sequence[CaseMetrics], class_set: ClassSet
) -> dict[str, list[Score]]:
    """Scores (see ``score``) of all cases and then, where there are several data sets, of those of each."""
    datasets = sorted({count.dataset for count in counts})
    return {
        name: score(
            [count for count in counts if name in (ALL, count.dataset)],
            class_set,
            metrics=[entry for entry in metrics if name in (ALL, entry.dataset)],
        )
        for name in [ALL, *(datasets if len(datasets) > 1 else ())]
    }


def score(counts: Sequence[VoxelCounts], class_set: ClassSet, *, metrics: Sequence[CaseMetrics] = ()) -> list[Score]:
    """Score each labelled class and, last, all together.

    Figures are averaged over the volumes that hold the class, then over classes. Overall leakage is the voxels
    predicted for labelled, unnamed classes over their true voxels, summed over all volumes and all prompts that name
    one class.
    """
    rows = [
        _score_class(
            class_set[label].name,
            [count for count in counts if count.label == label],
            [entry for entry in metrics if entry.label == label and entry.truth_ml],
        )
        for label in sorted({count.label for count in counts})
    ]
    overall = Score(
        name="all classes",
        cases=len({count.case for count in counts}),
        leakage=_leakage(counts),
        missed=sum(row.missed for row in rows),
        **{figure: _mean(getattr(row, figure) for row in rows) for figure in MEANS},
    )
    return [*rows, overall]


def _score_class(name: str, counts: Sequence[VoxelCounts], present: Sequence[CaseMetrics]) -> Score:
    """Score one class from its counts, and from the metrics of the cases that hold it."""
    alone = _naming(counts, alone=True)
    return Score(
        name=name,
        cases=len({count.case for count in counts if count.truth}),
        dice=_mean(count.dice for count in alone),
        dice_dataset=_mean(count.dice for count in _naming(counts, alone=False)),
        wrong_prompt_dice=_mean(count.dice for count in counts if count.is_wrong_prompt),
        leakage=_leakage(counts),
        false_positive_ml=_mean(count.predicted * count.voxel_ml for count in alone if not count.truth),
        final_dice=_mean(entry.dice for entry in present),
        nsd=_mean(entry.nsd for entry in present),
        hd95=_mean(entry.hd95 for entry in present),
        missed=sum(not entry.predicted_ml for entry in present),
    )


class PromptDice(Metric):
    """Ignite metric: a field of the overall ``Score`` under canonical sentences, over the cases of all processes."""

    def __init__(self, class_set: ClassSet, figure: str = "dice") -> None:
        self.class_set = class_set
        self.figure = figure
        super().__init__(output_transform=lambda output: output[CommonKeys.PRED])

    def reset(self) -> None:
        self.counts: list[VoxelCounts] = []

    def update(self, output: Sequence[VoxelCounts]) -> None:
        self.counts.extend(count for count in output if count.prompt_text == "canonical")

    def compute(self) -> float:
        return float(getattr(score(gather_cases(self.counts), self.class_set)[-1], self.figure))


def _naming(counts: Iterable[VoxelCounts], *, alone: bool) -> list[VoxelCounts]:
    """For each case, the counts whose prompt names the class, alone or with others; either where one is lacking."""
    cases: dict[str, list[VoxelCounts]] = defaultdict(list)
    for count in counts:
        if count.label in count.named:
            cases[count.case].append(count)
    return [count for own in cases.values() for count in [c for c in own if (len(c.named) == 1) == alone] or own]


def _leakage(counts: Iterable[VoxelCounts]) -> float:
    """Predicted over true voxels under wrong prompts."""
    wrong = [count for count in counts if count.is_wrong_prompt]
    truth = sum(count.truth for count in wrong)
    return sum(count.predicted for count in wrong) / truth if truth else math.nan


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
