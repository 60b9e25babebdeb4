"""Surface metrics against MONAI's, and the metrics of final masks."""

import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from monai.utils import CommonKeys
from scipy import ndimage

from custom.anatomy.class_set import ClassSet
from custom.evaluation.surface_metrics import CASE_METRICS, CaseMetrics, SurfaceMetrics, surface_figures
from custom.evaluation.voxel_counts import MASKS, VoxelCounts
from custom.utils.masks import Mask

SPLEEN, LIVER, AORTA, BLADDER = 1, 6, 8, 21


def blob(seed: int) -> Mask:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(30, 28, 20)), 3)
    return np.asarray(noise > np.quantile(noise, 0.8))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's metrics, of themselves
@pytest.mark.parametrize("tolerance", [1.0, 3.0])
def test_figures_equal_those_of_monai(tolerance: float) -> None:
    spacing = [1.5, 1.0, 4.0]
    truth = blob(0)
    for predicted in (blob(1), np.roll(truth, 2, axis=0), ndimage.binary_erosion(truth)):
        nsd, hd95 = surface_figures(predicted, truth, spacing=spacing, tolerance=tolerance)
        pair = [torch.as_tensor(mask)[None, None] for mask in (predicted, truth)]
        expected = compute_surface_dice(*pair, class_thresholds=[tolerance], include_background=True, spacing=spacing)
        assert nsd == pytest.approx(expected.item())
        expected = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
        assert hd95 == pytest.approx(expected.item(), rel=1e-6)


def test_a_shifted_plate() -> None:
    """A plate of one voxel, moved by two voxels of 1.5 mm: all of both surfaces is 3 mm away."""
    plate = np.zeros((9, 9, 9), bool)
    plate[3] = True
    moved = np.roll(plate, 2, axis=0)
    for spacing in ([1.5, 2.0, 2.0], [1.5000001, 2.0, 2.0]):  # as affines round
        assert surface_figures(moved, plate, spacing=spacing, tolerance=3.0) == pytest.approx((1, 3))
    assert surface_figures(moved, plate, spacing=[1.5, 2.0, 2.0], tolerance=2.9) == (0.0, 3.0)
    assert surface_figures(plate, plate, spacing=[1.5, 2.0, 2.0], tolerance=0.0) == (1.0, 0.0)


def measure(class_set: ClassSet, *, postprocess: bool) -> tuple[list[CaseMetrics], dict[int, Mask]]:
    """A spleen with an island of 8 voxels, a missed liver, a false-positive aorta, an absent bladder."""
    empty = np.zeros((20, 20, 20), bool)
    spleen, liver, island = empty.copy(), empty.copy(), empty.copy()
    spleen[1:8, 1:8, 1:8], liver[10:18, 10:18, 10:18], island[15:17, 2:4, 2:4] = True, True, True
    truth = {SPLEEN: spleen, LIVER: liver, AORTA: empty, BLADDER: empty}
    found = {SPLEEN: spleen | island, LIVER: empty, AORTA: island, BLADDER: empty}
    target = torch.zeros((len(class_set), 20, 20, 20), dtype=torch.int8)
    counts = []
    for label, mask in truth.items():
        target[label - 1] = torch.as_tensor(mask)
        size, overlap = int(found[label].sum()), int((found[label] & mask).sum())
        counts.append(VoxelCounts("ct.nii.gz", (label,), label, int(mask.sum()), size, overlap, 0.008, dataset="01"))
        counts.append(VoxelCounts("ct.nii.gz", (label,), label, 1, 1, 1, 0.008, prompt_text="raw", dataset="01"))
    image = MetaTensor(torch.zeros(1, 1, 20, 20, 20), affine=torch.diag(torch.tensor([-2.0, 2, 2, 1])))
    output = {
        CommonKeys.IMAGE: image,
        CommonKeys.LABEL: target,
        CommonKeys.PRED: counts,
        MASKS: found,
    }
    engine = Engine(lambda engine, batch: batch)
    SurfaceMetrics(class_set, postprocess=postprocess, tolerance=2).attach(engine)
    engine.run([output])
    assert output[CommonKeys.PRED] is counts, "counts of the raw logits are unchanged"
    return output[CASE_METRICS], output[MASKS]


@pytest.mark.parametrize("postprocess", [True, False])
def test_final_masks_are_measured(class_set: ClassSet, postprocess: bool) -> None:
    (spleen, liver, aorta, bladder), masks = measure(class_set, postprocess=postprocess)
    raw = 2 * 343 / (343 + 351)
    assert {metrics.case for metrics in (spleen, liver, aorta, bladder)} == {"ct.nii.gz"}
    assert (spleen.dataset, spleen.label) == ("01", SPLEEN)
    assert spleen.raw_dice == pytest.approx(raw)
    assert spleen.truth_ml == pytest.approx(343 * 0.008)
    if postprocess:
        assert (spleen.dice, spleen.nsd, spleen.hd95) == (1, 1, 0)
    else:
        assert spleen.dice == pytest.approx(raw)
        assert spleen.nsd == pytest.approx(2 * 218 / (2 * 218 + 8))  # voxels of the surfaces
        assert spleen.hd95 == 0  # the island is less than 5 % of the surface
    assert int(masks[SPLEEN].sum()) == (343 if postprocess else 351)
    assert spleen.predicted_ml == pytest.approx(masks[SPLEEN].sum() * 0.008)

    assert (liver.dice, liver.nsd, liver.predicted_ml) == (0, 0, 0)
    assert math.isnan(liver.hd95), "a missed class has no distance"
    for metrics, volume in ((aorta, 8 * 0.008), (bladder, 0)):
        assert all(math.isnan(figure) for figure in (metrics.dice, metrics.raw_dice, metrics.nsd, metrics.hd95))
        assert (metrics.truth_ml, metrics.predicted_ml) == pytest.approx((0, volume))


def test_lengths_and_volumes_are_those_of_an_oblique_affine(class_set: ClassSet) -> None:
    """A plate moved by two voxels along each axis, of 1.5, 2.5 and 4 mm."""
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.as_tensor(turn * [1.5, 2.5, 4.0])
    engine = Engine(lambda engine, batch: batch)
    SurfaceMetrics(class_set, postprocess=False, tolerance=0.5).attach(engine)
    for axis, length in enumerate((1.5, 2.5, 4.0)):
        plate = np.zeros((12, 12, 12), bool)
        plate.swapaxes(0, axis)[4] = True
        moved = np.roll(plate, 2, axis=axis)
        target = torch.zeros((len(class_set), 12, 12, 12), dtype=torch.int8)
        target[LIVER - 1] = torch.as_tensor(plate)
        counts = [VoxelCounts("ct.nii.gz", (LIVER,), LIVER, 144, 144, 0, 0.015)]
        image = MetaTensor(torch.zeros(1, 1, 12, 12, 12), affine=affine)
        output = {CommonKeys.IMAGE: image, CommonKeys.LABEL: target, CommonKeys.PRED: counts, MASKS: {LIVER: moved}}
        engine.run([output])
        [metrics] = output[CASE_METRICS]
        assert metrics.hd95 == pytest.approx(2 * length)
        assert metrics.predicted_ml == pytest.approx(144 * 0.015)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_the_tolerance_must_be_a_length(class_set: ClassSet, tolerance: float) -> None:
    with pytest.raises(ValueError, match="surface_tolerance must be a length in mm"):
        SurfaceMetrics(class_set, tolerance=tolerance)
