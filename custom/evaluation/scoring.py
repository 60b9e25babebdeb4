"""Scores of each class and of all, from what was counted and measured of every case."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ignite.metrics import Metric
from monai.utils import CommonKeys

from custom.anatomy.class_set import ClassSet
from custom.evaluation.surface_metrics import CaseMetrics
from custom.evaluation.voxel_counts import ALL, VoxelCounts
from custom.utils.distributed import gather_cases


@dataclass(frozen=True)
class Score:
    """Scores of one class, or of all, under one wording; NaN where there is nothing to score.

    Attributes:
        name: class name.
        cases: volumes in which the class is present.
        dice: mean Dice over those, the class asked for alone, or where it never was (by a network that does not read
            prompts) with the others.
        dice_dataset: the same under the data set's sentence, which of a data set of one class is the class's own.
        wrong_prompt_dice: mean Dice of the class's channel while another class is named alone; near 0 is right.
        leakage: predicted over true voxels of the class while another class is named alone; near 0 is right, and a
            network that ignores text scores about 1.
        false_positive_ml: mean volume predicted in cases where the class is absent, asked for alone.
        final_dice: mean Dice of the final answers, which may be post-processed.
        nsd: mean normalized surface Dice of those.
        hd95: mean HD95 of those in mm, over the volumes in which the class was found.
        missed: volumes that hold the class, of which none was found.
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


class Scores(NamedTuple):
    """Scores of one data set, or of ``ALL``: of each labelled class, and of all classes."""

    dataset: str
    rows: list[Score]
    overall: Score


def score_datasets(
    counts: Sequence[VoxelCounts], answers: Sequence[CaseMetrics], class_set: ClassSet
) -> Iterator[Scores]:
    """Score all cases and then, where there are several data sets, those of each."""
    yield Scores(ALL, *score(counts, class_set, answers=answers))
    if len(datasets := sorted({count.dataset for count in counts})) > 1:
        for dataset in datasets:
            own = [count for count in counts if count.dataset == dataset]
            measured = [answer for answer in answers if answer.dataset == dataset]
            yield Scores(dataset, *score(own, class_set, answers=measured))


def score(
    counts: Sequence[VoxelCounts], class_set: ClassSet, *, answers: Sequence[CaseMetrics] = ()
) -> tuple[list[Score], Score]:
    """Score each labelled class, and all together.

    Figures are averaged over the volumes that hold the class, then over classes. Overall leakage is the voxels
    predicted for labelled, unnamed classes over their true voxels, summed over all volumes and all prompts that name
    one class.
    """
    rows = []
    for label in sorted({count.label for count in counts}):
        own = [c for c in counts if c.label == label]
        alone = _answers(own, lambda count: len(count.named) == 1)
        dataset = _answers(own, lambda count: len(count.named) > 1)
        wrong = [c for c in own if len(c.named) == 1 and label not in c.named]
        present = [answer for answer in answers if answer.label == label and answer.truth_ml]
        rows.append(
            Score(
                name=class_set[label].name,
                cases=len({c.case for c in own if c.truth}),
                dice=_mean(c.dice for c in alone if c.truth),
                dice_dataset=_mean(c.dice for c in dataset if c.truth),
                wrong_prompt_dice=_mean(c.dice for c in wrong if c.truth),
                leakage=_ratio(sum(c.predicted for c in wrong), sum(c.truth for c in wrong)),
                false_positive_ml=_mean(c.predicted * c.voxel_ml for c in alone if not c.truth),
                final_dice=_mean(answer.dice for answer in present),
                nsd=_mean(answer.nsd for answer in present),
                hd95=_mean(answer.hd95 for answer in present),
                missed=sum(not answer.predicted_ml for answer in present),
            )
        )
    leaked = [c for c in counts if len(c.named) == 1 and c.label not in c.named]
    overall = Score(
        name="all classes",
        cases=len({c.case for c in counts}),
        dice=_mean(row.dice for row in rows),
        dice_dataset=_mean(row.dice_dataset for row in rows),
        wrong_prompt_dice=_mean(row.wrong_prompt_dice for row in rows),
        leakage=_ratio(sum(c.predicted for c in leaked), sum(c.truth for c in leaked)),
        false_positive_ml=_mean(row.false_positive_ml for row in rows),
        final_dice=_mean(row.final_dice for row in rows),
        nsd=_mean(row.nsd for row in rows),
        hd95=_mean(row.hd95 for row in rows),
        missed=sum(row.missed for row in rows),
    )
    return rows, overall


class PromptDice(Metric):
    """Ignite metric: one figure of the overall ``Score`` under canonical sentences, over the cases of all processes.

    Args:
        class_set: names of the classes.
        figure: a field of ``Score``: "dice", "leakage", ...
    """

    def __init__(self, class_set: ClassSet, figure: str = "dice") -> None:
        self.class_set = class_set
        self.figure = figure
        super().__init__(output_transform=lambda output: output[CommonKeys.PRED])

    def reset(self) -> None:
        self.counts: list[VoxelCounts] = []

    def update(self, output: Sequence[VoxelCounts]) -> None:
        self.counts.extend(count for count in output if count.prompt_text == "canonical")

    def compute(self) -> float:
        return float(getattr(score(gather_cases(self.counts), self.class_set)[1], self.figure))


def _answers(counts: Sequence[VoxelCounts], preferred: Callable[[VoxelCounts], bool]) -> list[VoxelCounts]:
    """Of each case, the counts whose prompt names the class: the preferred ones, or all where there are none."""
    naming: dict[str, list[VoxelCounts]] = defaultdict(list)
    for count in counts:
        if count.label in count.named:
            naming[count.case].append(count)
    return [count for own in naming.values() for count in [c for c in own if preferred(c)] or own]


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
