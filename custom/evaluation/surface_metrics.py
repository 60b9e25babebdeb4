"""Metrics of the final segmentation of each class in each volume: overlap in voxels, surfaces in mm."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events
from monai.metrics.utils import get_mask_edges, get_surface_distance
from monai.utils import CommonKeys

from custom.anatomy.class_set import ClassSet
from custom.evaluation.voxel_counts import MASKS, VoxelCounts, affine_of
from custom.transforms.postprocessing import PostProcessing
from custom.utils.geometry import voxel_volume_ml
from custom.utils.masks import Mask, bounding_box

#: Key of the list of ``CaseMetrics`` in the evaluator's output.
CASE_METRICS = "case_metrics"

#: Added to the tolerance, in mm: an affine's voxels of 1.5 mm may measure 1.5000001.
ROUNDING = 1e-3


@dataclass(frozen=True)
class CaseMetrics:
    """Metrics of the final segmentation of class ``label`` (1-based) in the volume of file ``case``.

    Attributes:
        dice: NaN where the class is absent.
        raw_dice: the same before post-processing.
        nsd: normalized surface Dice, the fraction of both surfaces that lies within the tolerance of the other; 0 where
            the class was missed, NaN where it is absent.
        hd95: the larger of both 95th percentiles of the distances from one surface to the other, in mm; NaN where the
            class is absent or was missed.
        predicted_ml: volume; false positive where the class is absent.
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
    """Evaluator handler: post-processes the masks that ``PromptEvaluationStep`` keeps, and measures them.

    List it before the handlers that read the results: ``masks`` of the engine's output are replaced by the final ones,
    and ``case_metrics`` becomes a list of ``CaseMetrics``. Everything is measured on the network's grid.

    Args:
        class_set: the classes and their clean-up rules.
        postprocess: whether to post-process (``custom.transforms.postprocessing``).
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
        affine = affine_of(output[CommonKeys.IMAGE]).numpy()
        spacing = nib.affines.voxel_sizes(affine).tolist()
        if self.clean:
            output[MASKS] = self.clean(output[MASKS], affine)
        output[CASE_METRICS] = []
        for raw in raw_metrics(output[CommonKeys.PRED]):
            truth = np.asarray((output[CommonKeys.LABEL][raw.label - 1] > 0).cpu())
            predicted = output[MASKS][raw.label]
            size, held = int(predicted.sum()), int(truth.sum())
            dice = 2 * int((predicted & truth).sum()) / (size + held) if held else math.nan
            nsd, hd95 = surface_figures(predicted, truth, spacing=spacing, tolerance=self.tolerance)
            volume = size * voxel_volume_ml(affine)
            output[CASE_METRICS].append(replace(raw, dice=dice, nsd=nsd, hd95=hd95, predicted_ml=volume))


def raw_metrics(counts: Iterable[VoxelCounts]) -> list[CaseMetrics]:
    """From the counts of a volume, metrics of ``PromptEvaluationStep``'s masks without post-processing or surfaces."""
    metrics: dict[int, CaseMetrics] = {}
    for count in counts:
        if count.is_canonical and count.label not in metrics:
            volumes = count.truth * count.voxel_ml, count.predicted * count.voxel_ml
            metrics[count.label] = CaseMetrics(
                count.case, count.dataset, count.label, count.dice, count.dice, math.nan, math.nan, *volumes
            )
    return list(metrics.values())


def surface_figures(predicted: Mask, truth: Mask, *, spacing: list[float], tolerance: float) -> tuple[float, float]:
    """Normalized surface Dice and HD95 of two masks (H, W, D); spacing and tolerance in mm; see ``CaseMetrics``.

    The surface of a mask is its voxels that have a neighbour outside; distances are between voxel centres. These are
    the definitions and figures of MONAI's ``SurfaceDiceMetric`` and ``HausdorffDistanceMetric``, computed here from
    one distance search (arXiv:1809.04430).
    """
    if not truth.any():
        return math.nan, math.nan
    if not predicted.any():
        return 0.0, math.nan
    box = bounding_box(predicted | truth)
    edges = get_mask_edges(predicted[box], truth[box])
    distances = [get_surface_distance(*pair, spacing=spacing) for pair in (edges, edges[::-1])]
    near = sum(int((part < tolerance + ROUNDING).sum()) for part in distances)
    return near / sum(map(len, distances)), max(float(np.percentile(part, 95)) for part in distances)
