"""What is counted of every prompt of a volume: voxels of every labelled class, in the raw logits of all channels."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys

from custom.transforms.labels import labelled_classes
from custom.utils.geometry import voxel_volume_ml

#: Key of the masks in the evaluator's output, see ``PromptEvaluationStep``.
ANSWERS = "answers"

#: Name of the data set where items name none, and of all together.
ALL = "all"


@dataclass(frozen=True)
class VoxelCounts:
    """Voxels of one class in one volume under one prompt; ``named`` and ``label`` are 1-based class indices.

    ``case`` is the path of the volume's file: many data sets give every case a folder and the same file name.
    ``dataset`` is the key or name of its data set.
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
    dataset: str = ALL

    @property
    def dice(self) -> float:
        """2 overlap / (truth + predicted); meaningful where truth is not empty."""
        return 2 * self.overlap / (self.truth + self.predicted)


class PromptEvaluationStep:
    """One evaluation step: ask every prompt of a volume, count voxels of every labelled class in the raw logits.

    An ``iteration_update`` for MONAI's ``SupervisedEvaluator``. Each volume is encoded once. The batch holds one
    volume: ``image`` (1, C, H, W, D), ``label`` (1, K, H, W, D) of 0, 1 and UNKNOWN, ``text`` (1, P, E),
    ``named`` (1, P, K), ``prompt_text`` (P) and, where there are several data sets, ``dataset``.
    The output's ``pred`` is a list of ``VoxelCounts``. No channel is selected and nothing is post-processed: what the
    network says about classes that were not asked for is measured, not hidden. ``answers`` holds, for each class, what
    its channel says to the first canonical prompt that names it, which asks for it alone unless the network does not
    read prompts: label -> (H, W, D) bool, on the CPU.
    """

    def __call__(self, engine: Any, batch: dict[str, Any]) -> dict[str, Any]:
        device = engine.state.device
        image, target = batch[CommonKeys.IMAGE].to(device), batch[CommonKeys.LABEL][0].to(device)
        if image.shape[0] != 1:
            raise ValueError(f"Evaluation takes one volume at a time, not {image.shape[0]}: set the batch size to 1.")
        affine = torch.as_tensor(image.affine).reshape(-1, 4, 4)[0]
        voxel_ml = voxel_volume_ml(affine.double())
        case = _first(image.meta["filename_or_obj"])
        dataset = _first(batch.get("dataset", ALL))
        trained_classes = labelled_classes(target)
        answers: dict[int, torch.Tensor] = {}
        engine.state.output = {
            CommonKeys.IMAGE: image, CommonKeys.LABEL: target, CommonKeys.PRED: [], ANSWERS: answers
        }  # fmt: skip
        with engine.mode(engine.network):
            decoded = engine.inferer.each_prompt(image, engine.network, batch["text"].to(device))
            for named, wording, logits in zip(batch["named"][0], batch["prompt_text"], decoded, strict=True):
                asked = tuple(index + 1 for index in named.nonzero().flatten().tolist())
                for label in trained_classes:
                    predicted, truth = logits[0, label - 1] > 0, target[label - 1] > 0
                    count = VoxelCounts(
                        case=case,
                        named=asked,
                        label=label,
                        truth=int(truth.sum()),
                        predicted=int(predicted.sum()),
                        overlap=int((predicted & truth).sum()),
                        voxel_ml=voxel_ml,
                        prompt_text=_first(wording),
                        dataset=dataset,
                    )
                    engine.state.output[CommonKeys.PRED].append(count)
                    if label in asked and count.prompt_text == "canonical":
                        answers.setdefault(label, predicted.cpu())
                del logits  # before the next prompt's are made
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        output: dict[str, Any] = engine.state.output
        return output


def answering(counts: Iterable[VoxelCounts]) -> list[VoxelCounts]:
    """Of each case and class, the count of the answer that ``PromptEvaluationStep`` keeps."""
    first: dict[tuple[str, int], VoxelCounts] = {}
    for count in counts:
        if count.label in count.named and count.prompt_text == "canonical":
            first.setdefault((count.case, count.label), count)
    return list(first.values())


def _first(value: Any) -> str:
    return str(value if isinstance(value, str) else value[0])
