"""How well a prompt is answered: Dice, leakage and wrong-prompt Dice, on raw logits of all channels."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ignite.metrics import Metric
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys

from custom.anatomy import ClassSet
from custom.distributed import gather_cases
from custom.transforms import labelled_classes

#: Key of the masks in the evaluator's output, see ``CountPrompts``.
ANSWERS = "answers"


@dataclass(frozen=True)
class Count:
    """Voxels of one class in one volume under one prompt; ``named`` and ``label`` are 1-based class indices.

    ``case`` is the path of the volume's file: many data sets give every case a folder and the same file name.
    ``prompt_text`` is how the prompt was worded (``custom.transforms.PROMPT_TEXTS``).
    """

    case: str
    named: tuple[int, ...]
    label: int
    truth: int
    predicted: int
    overlap: int
    voxel_ml: float
    prompt_text: str = "canonical"

    @property
    def dice(self) -> float:
        """2 overlap / (truth + predicted); meaningful where truth is not empty."""
        return 2 * self.overlap / (self.truth + self.predicted)


class CountPrompts:
    """One evaluation step: ask every prompt of a volume, count voxels of every labelled class in the raw logits.

    An ``iteration_update`` for MONAI's ``SupervisedEvaluator``. Each volume is encoded once. The batch holds one
    volume: ``image`` (1, C, H, W, D), ``label`` (1, K, H, W, D) of 0, 1 and UNKNOWN, ``text`` (1, P, E),
    ``named`` (1, P, K) and ``prompt_text`` (P).
    The output's ``pred`` is a list of ``Count``. No channel is selected and nothing is post-processed: what the network
    says about classes that were not asked for is measured, not hidden. ``answers`` holds, for each class, what its
    channel says to the first canonical prompt that names it, which asks for it alone unless the network does not read
    prompts: label -> (H, W, D) bool.
    """

    def __call__(self, engine: Any, batch: dict[str, Any]) -> dict[str, Any]:
        device = engine.state.device
        image, target = batch[CommonKeys.IMAGE].to(device), batch[CommonKeys.LABEL][0].to(device)
        if image.shape[0] != 1:
            raise ValueError(f"Evaluation takes one volume at a time, not {image.shape[0]}: set the batch size to 1.")
        affine = torch.as_tensor(image.affine).reshape(-1, 4, 4)[0]
        voxel_ml = affine[:3, :3].double().det().abs().item() / 1000
        case = _first(image.meta["filename_or_obj"])
        labelled = labelled_classes(target)
        answers: dict[int, torch.Tensor] = {}
        engine.state.output = {
            CommonKeys.IMAGE: image, CommonKeys.LABEL: target, CommonKeys.PRED: [], ANSWERS: answers
        }  # fmt: skip
        with engine.mode(engine.network):
            decoded = engine.inferer.each_prompt(image, engine.network, batch["text"].to(device))
            for named, wording, logits in zip(batch["named"][0], batch["prompt_text"], decoded, strict=True):
                asked = tuple(index + 1 for index in named.nonzero().flatten().tolist())
                for label in labelled:
                    predicted, truth = logits[0, label - 1] > 0, target[label - 1] > 0
                    count = Count(
                        case=case,
                        named=asked,
                        label=label,
                        truth=int(truth.sum()),
                        predicted=int(predicted.sum()),
                        overlap=int((predicted & truth).sum()),
                        voxel_ml=voxel_ml,
                        prompt_text=_first(wording),
                    )
                    engine.state.output[CommonKeys.PRED].append(count)
                    if label in asked and count.prompt_text == "canonical":
                        answers.setdefault(label, predicted)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        output: dict[str, Any] = engine.state.output
        return output


def answering(counts: Iterable[Count]) -> list[Count]:
    """Of each case and class, the count of the answer that ``CountPrompts`` keeps."""
    first: dict[tuple[str, int], Count] = {}
    for count in counts:
        if count.label in count.named and count.prompt_text == "canonical":
            first.setdefault((count.case, count.label), count)
    return list(first.values())


def case_dice(counts: Iterable[Count]) -> dict[str, dict[int, float]]:
    """Dice of each case, label by label: of the classes that the case holds."""
    found: dict[str, dict[int, float]] = {}
    for count in answering(counts):
        if count.truth:
            found.setdefault(count.case, {})[count.label] = count.dice
    return found


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
    """

    name: str
    cases: int
    dice: float
    dice_dataset: float
    wrong_prompt_dice: float
    leakage: float
    false_positive_ml: float


def score(counts: Sequence[Count], class_set: ClassSet) -> tuple[list[Score], Score]:
    """Score each labelled class, and all together.

    Dice is averaged over the volumes that hold the class, then over classes. Overall leakage is the voxels predicted
    for labelled, unnamed classes over their true voxels, summed over all volumes and all prompts that name one class.
    """
    rows = []
    for label in sorted({count.label for count in counts}):
        own = [c for c in counts if c.label == label]
        alone = _answers(own, lambda count: len(count.named) == 1)
        dataset = _answers(own, lambda count: len(count.named) > 1)
        wrong = [c for c in own if len(c.named) == 1 and label not in c.named]
        rows.append(
            Score(
                name=class_set[label].name,
                cases=len({c.case for c in own if c.truth}),
                dice=_mean(c.dice for c in alone if c.truth),
                dice_dataset=_mean(c.dice for c in dataset if c.truth),
                wrong_prompt_dice=_mean(c.dice for c in wrong if c.truth),
                leakage=_ratio(sum(c.predicted for c in wrong), sum(c.truth for c in wrong)),
                false_positive_ml=_mean(c.predicted * c.voxel_ml for c in alone if not c.truth),
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
        self.counts: list[Count] = []

    def update(self, output: Sequence[Count]) -> None:
        self.counts.extend(count for count in output if count.prompt_text == "canonical")

    def compute(self) -> float:
        counts = gather_cases(self.counts, case=lambda count: count.case)
        return float(getattr(score(counts, self.class_set)[1], self.figure))


def _answers(counts: Sequence[Count], preferred: Callable[[Count], bool]) -> list[Count]:
    """Of each case, the counts whose prompt names the class: the preferred ones, or all where there are none."""
    found = []
    for case in dict.fromkeys(count.case for count in counts):
        naming = [count for count in counts if count.case == case and count.label in count.named]
        found += [count for count in naming if preferred(count)] or naming
    return found


def _first(value: Any) -> str:
    return str(value if isinstance(value, str) else value[0])


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
