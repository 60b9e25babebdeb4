"""Voxel counts of every labelled class under every prompt, from the raw logits of all channels."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.utils import CommonKeys

from custom.transforms.labels import labelled_classes
from custom.utils.geometry import voxel_volume_ml
from custom.utils.masks import Mask

#: Key of the segmentation in the evaluator's output, see ``PromptEvaluationStep``.
MASKS = "masks"

#: Name of the data set where items name none, and of all together.
ALL = "all"


@dataclass(frozen=True)
class VoxelCounts:
    """Voxels of class ``label`` (1-based) in one volume under a prompt that names the classes ``named`` (1-based).

    ``truth``, ``predicted`` and ``overlap`` are voxels of the label, of the prediction and of both, ``voxel_ml`` is the
    volume of one in mL. ``case`` is the path of the volume's file, for in many data sets each case has a folder of its
    own and the same file name; ``prompt_text`` is the wording of the prompt (``WORDINGS`` of ``ValidationPromptsd``).
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
        """2 overlap / (truth + predicted); NaN where the volume does not hold the class."""
        return 2 * self.overlap / (self.truth + self.predicted) if self.truth else math.nan

    @property
    def is_wrong_prompt(self) -> bool:
        return len(self.named) == 1 and self.label not in self.named

    @property
    def is_canonical(self) -> bool:
        """Whether the prompt is a canonical sentence that names the class."""
        return self.label in self.named and self.prompt_text == "canonical"


class PromptEvaluationStep:
    """Evaluation step: predict a volume under each of its prompts and count the voxels of every labelled class.

    An ``iteration_update`` for MONAI's ``SupervisedEvaluator``. Each volume is encoded once. The batch holds one
    volume: ``image`` (1, C, H, W, D), ``label`` (1, K, H, W, D) of 0, 1 and UNKNOWN, ``text`` (1, P, E),
    ``named`` (1, P, K), ``prompt_text`` (P) and, where there are several data sets, ``dataset``.

    ``pred`` of the output is a list of ``VoxelCounts``. All channels are counted, without post-processing, so that
    predictions of classes that a prompt does not name show up as leakage. ``masks`` is the segmentation, label ->
    array (H, W, D) of bool: of each class the mask under the first canonical prompt that names it, which names it alone
    unless the network does not read prompts.
    """

    def __call__(self, engine: Any, batch: dict[str, Any]) -> dict[str, Any]:
        device = engine.state.device
        image, target = batch[CommonKeys.IMAGE].to(device), batch[CommonKeys.LABEL][0].to(device)
        if image.shape[0] != 1:
            raise ValueError(f"Evaluation takes one volume at a time, not {image.shape[0]}: set the batch size to 1.")
        [case], [dataset] = image.meta["filename_or_obj"], batch.get("dataset", [ALL])
        labels, voxel_ml = labelled_classes(target), voxel_volume_ml(affine_of(image))
        counts: list[VoxelCounts] = []
        masks: dict[int, Mask] = {}
        with engine.mode(engine.network):
            decoded = engine.inferer.each_prompt(image, engine.network, batch["text"].to(device))
            for named, [wording], logits in zip(batch["named"][0], batch["prompt_text"], decoded, strict=True):
                names = tuple((named.nonzero().flatten() + 1).tolist())
                for label in labels:
                    predicted, truth = logits[0, label - 1] > 0, target[label - 1] > 0
                    held, found, both = (int(mask.sum()) for mask in (truth, predicted, truth & predicted))
                    count = VoxelCounts(case, names, label, held, found, both, voxel_ml, wording, dataset)
                    counts.append(count)
                    if count.is_canonical and label not in masks:
                        masks[label] = np.asarray(predicted.cpu())
                del logits  # before those of the next prompt are computed
        return {CommonKeys.IMAGE: image, CommonKeys.LABEL: target, CommonKeys.PRED: counts, MASKS: masks}


def affine_of(image: Any) -> torch.Tensor:
    """Voxel to world (4, 4) of a batch of one volume, in double precision on the CPU."""
    return torch.as_tensor(image.affine).reshape(-1, 4, 4)[0].cpu().double()
