"""The final answer of each class in each volume: post-processed, and measured in voxels and in mm."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.metrics.utils import get_mask_edges, get_surface_distance
from monai.utils import CommonKeys

from custom.anatomy.class_set import ClassSet
from custom.evaluation.counting import ANSWERS, VoxelCounts, answering
from custom.transforms.postprocessing import PostProcessing
from custom.utils.geometry import voxel_volume_ml
from custom.utils.masks import Mask, bounding_box

#: Key of the list of ``CaseMetrics`` in the evaluator's output.
MEASURED = "measured"

#: Added to the tolerance, in mm: an affine's voxels of 1.5 mm may measure 1.5000001.
ROUNDING = 1e-3


@dataclass(frozen=True)
class CaseMetrics:
    """Figures of the final answer to one class in one volume; NaN where there is nothing to measure.

    Attributes:
        case: path of the volume's file.
        dataset: key or name of its data set.
        label: 1-based class index.
        dice: NaN where the class is not there.
        raw_dice: the same before post-processing.
        nsd: normalized surface Dice, the share of both surfaces that lies within the tolerance of the other; 0 where
            the class was missed, NaN where it is not there.
        hd95: the larger of both 95th percentiles of the distances from one surface to the other, in mm; NaN where the
            class is not there or was missed.
        truth_ml: volume.
        predicted_ml: volume; of a class that is not there, false positive.
    """

    case: str
    dataset: str
    label: int
    dice: float
    raw_dice: float
    nsd: float
    hd95: float
    truth_ml: float
    predicted_ml: float


class SurfaceMetrics:
    """Evaluator handler: makes the answers that ``PromptEvaluationStep`` keeps final, and measures them.

    List it before the handlers that read the results: ``answers`` of the engine's output become the final ones, and
    ``measured`` a list of ``CaseMetrics``. All is measured on the grid that the network works on.

    Args:
        class_set: the classes and their clean-up rules.
        postprocess: whether answers are post-processed (``custom.transforms.postprocessing``).
        tolerance: of the normalized surface Dice, in mm.
    """

    def __init__(self, class_set: ClassSet, *, postprocess: bool = True, tolerance: float = 3.0) -> None:
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"surface_tolerance must be a length in mm, 0 or more, not {tolerance!r}.")
        self.clean = PostProcessing(class_set) if postprocess else None
        self.tolerance = tolerance

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._measure)

    def _measure(self, engine: Engine) -> None:
        output: dict[str, Any] = engine.state.output
        affine = torch.as_tensor(output[CommonKeys.IMAGE].affine).reshape(-1, 4, 4)[0].cpu().double().numpy()
        masks = {label: np.asarray(answer) for label, answer in output[ANSWERS].items()}
        final = self.clean(masks, affine) if self.clean else masks
        spacing = [float(size) for size in nib.affines.voxel_sizes(affine)]
        voxel_ml = voxel_volume_ml(affine)
        output[ANSWERS] = {label: torch.as_tensor(np.ascontiguousarray(mask)) for label, mask in final.items()}
        output[MEASURED] = []
        for raw in raw_answers(output[CommonKeys.PRED]):
            truth = np.asarray((output[CommonKeys.LABEL][raw.label - 1] > 0).cpu())
            predicted = final[raw.label]
            nsd, hd95 = surface_figures(predicted, truth, spacing=spacing, tolerance=self.tolerance)
            size, whole, overlap = (int(mask.sum()) for mask in (predicted, truth, predicted & truth))
            output[MEASURED].append(
                replace(
                    raw,
                    dice=2 * overlap / (size + whole) if whole else math.nan,
                    nsd=nsd,
                    hd95=hd95,
                    predicted_ml=size * voxel_ml,
                )
            )


def raw_answers(counts: Iterable[VoxelCounts]) -> list[CaseMetrics]:
    """The answers that ``PromptEvaluationStep`` keeps, neither post-processed nor measured in mm."""
    return [
        CaseMetrics(
            case=count.case,
            dataset=count.dataset,
            label=count.label,
            dice=count.dice if count.truth else math.nan,
            raw_dice=count.dice if count.truth else math.nan,
            nsd=math.nan,
            hd95=math.nan,
            truth_ml=count.truth * count.voxel_ml,
            predicted_ml=count.predicted * count.voxel_ml,
        )
        for count in answering(counts)
    ]


def surface_figures(predicted: Mask, truth: Mask, *, spacing: list[float], tolerance: float) -> tuple[float, float]:
    """Normalized surface Dice and HD95 in mm, see ``CaseMetrics``.

    The surface of a mask is its voxels that have a neighbour outside, distances are those between voxel centres:
    MONAI's definitions, and the figures of its ``SurfaceDiceMetric`` and ``HausdorffDistanceMetric``; both come
    from one search here (arXiv:1809.04430).

    Args:
        predicted: mask (H, W, D).
        truth: likewise.
        spacing: sides of a voxel in mm.
        tolerance: in mm.
    """
    if not truth.any():
        return math.nan, math.nan
    if not predicted.any():
        return 0.0, math.nan
    box = bounding_box(predicted | truth)
    found, real = get_mask_edges(predicted[box], truth[box])
    distances = [get_surface_distance(*pair, spacing=spacing) for pair in ((found, real), (real, found))]
    near = sum(int((part < tolerance + ROUNDING).sum()) for part in distances)
    return near / sum(map(len, distances)), max(float(np.percentile(part, 95)) for part in distances)
