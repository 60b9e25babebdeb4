"""Pictures of the worst and the median case of an evaluation."""

import pickle
import re
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import numpy.typing as npt
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.utils import CommonKeys

from custom.anatomy.class_set import ClassSet
from custom.evaluation import pictures as pictures_module
from custom.evaluation.pictures import Case, ComparisonPictures, unpack
from custom.evaluation.surface_metrics import SurfaceMetrics
from custom.evaluation.voxel_counts import MASKS, VoxelCounts
from custom.visualize.page import Cell, draw_page

SPLEEN, LIVER, AORTA = 1, 6, 8
SHAPE = (40, 36, 32)


def block(*ends: tuple[int, int]) -> torch.Tensor:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[tuple(slice(*end) for end in ends)] = True
    return mask


def result(class_set: ClassSet, path: str, shift: int, *, liver: bool = True) -> dict[str, Any]:
    """Output of the evaluator for a case: a correct spleen, a shifted liver, a false-positive aorta."""
    nothing = torch.zeros(SHAPE, dtype=torch.bool)
    truth = {
        SPLEEN: block((2, 10), (5, 15), (12, 20)) if liver else nothing,
        LIVER: block((16, 36), (8, 28), (6, 26)) if liver else nothing,
        AORTA: nothing,
    }
    found = {
        SPLEEN: truth[SPLEEN],
        LIVER: truth[LIVER].roll(-shift, dims=1),
        AORTA: block((12, 14), (20, 22), (10, 20)),
    }
    target = torch.full((len(class_set), *SHAPE), -1, dtype=torch.int8)
    counts = []
    for label, mask in truth.items():
        target[label - 1] = mask
        size, overlap = int(mask.sum()), int((mask & found[label]).sum())
        counts.append(VoxelCounts(path, (label,), label, size, int(found[label].sum()), overlap, voxel_ml=0.008))
    affine = torch.diag(torch.tensor([-2.0, -2, 2, 1]))
    image = MetaTensor(torch.full((1, 1, *SHAPE), 0.5), affine=affine, meta={"filename_or_obj": path})
    return {
        CommonKeys.IMAGE: image,
        CommonKeys.LABEL: MetaTensor(target, affine=affine),
        CommonKeys.PRED: counts,
        MASKS: {label: mask.numpy() for label, mask in found.items()},
    }


def evaluate(class_set: ClassSet, folder: Path, results: list[dict[str, Any]]) -> ComparisonPictures:
    engine = Engine(lambda engine, batch: batch)
    SurfaceMetrics(class_set, postprocess=False).attach(engine)
    pictures = ComparisonPictures(class_set, folder)
    pictures.attach(engine)
    engine.run(results)
    return pictures


def pixels(path: Path) -> npt.NDArray[np.float64]:
    picture: npt.NDArray[np.float64] = np.round(255.0 * matplotlib.image.imread(path)[..., :3]).astype(np.float64)
    return picture


def test_the_worst_and_the_median_of_three(
    class_set: ClassSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Case] = {}
    draw = pictures_module.write_comparison

    def record(case: Case, class_set: ClassSet, path: str | Path, *, title: str) -> None:
        drawn[title] = case
        draw(case, class_set, path, title=title)

    monkeypatch.setattr(pictures_module, "write_comparison", record)
    shifts = {"a": 4, "b": 12, "c": 0}  # Dice of the liver 0.8, 0.4 and 1
    results = [result(class_set, f"/data/{case}/ct.nii.gz", shift) for case, shift in shifts.items()]
    results.append(result(class_set, "/data/d/ct.nii.gz", 0, liver=False))  # nothing to score
    evaluate(class_set, tmp_path / "eval", results)
    assert list(drawn) == ["Worst case: b/ct.nii.gz", "Median case: a/ct.nii.gz"]
    worst, median = drawn.values()
    assert worst.dice == {SPLEEN: 1, LIVER: pytest.approx(0.4)}
    assert (worst.score, median.score) == pytest.approx((0.7, 0.9))
    assert worst.metrics[AORTA].predicted_ml == pytest.approx(2 * 2 * 10 * 0.008)
    printed = capsys.readouterr().out
    assert f"Worst case: b/ct.nii.gz, mean Dice 0.700: {tmp_path}/eval/worst.png" in printed
    assert f"Median case: a/ct.nii.gz, mean Dice 0.900: {tmp_path}/eval/median.png" in printed
    assert {path.name for path in (tmp_path / "eval").rglob("*.png")} == {
        *("worst.png", "median.png", "spleen.png", "liver.png"),  # no case has an aorta
    }


def test_image_truth_and_prediction_are_drawn_side_by_side(class_set: ClassSet, tmp_path: Path) -> None:
    evaluate(class_set, tmp_path, [result(class_set, "/data/a/ct.nii.gz", 8)])
    picture = pixels(tmp_path / "worst.png")
    assert picture.shape[1] == 1500
    assert picture.shape[0] > 1000  # three planes
    np.testing.assert_array_equal(picture[40:], pixels(tmp_path / "median.png")[40:])  # but for the title
    liver = np.argwhere(np.abs(picture - class_set[LIVER].color).max(-1) <= 2)
    sections = liver[(liver[:, 0] < picture.shape[0] - 60)]
    image, truth, prediction = (sections[sections[:, 1] // 500 == column] for column in range(3))
    assert len(image) == 0
    # The affine is LPS: the prediction, 8 voxels towards the first face of its axis, lies anterior, above the truth.
    axial_truth, axial_prediction = (part[part[:, 0] < picture.shape[0] / 3][:, 0] for part in (truth, prediction))
    shift = axial_truth.max() - axial_prediction.max()
    assert shift == pytest.approx(np.ptp(axial_truth) * 8 / 20, rel=0.05)


def test_each_class_is_shown_in_its_own_worst_and_median_case(
    class_set: ClassSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[list[Cell]]] = {}

    def record(rows: list[list[Cell]], path: str | Path, *, title: str, **options: Any) -> None:
        drawn[title] = rows
        draw_page(rows, path, title=title, **options)

    monkeypatch.setattr(pictures_module, "draw_page", record)
    shifts = {"a": 4, "b": 12, "c": 0}
    evaluate(class_set, tmp_path, [result(class_set, f"/data/{case}/ct.nii.gz", by) for case, by in shifts.items()])
    rows = drawn["liver: the worst and the median of 3 cases"]
    captions = [[cell.caption for cell in row] for row in rows]
    assert [caption[:2] for caption in captions] == [
        ["worst: b/ct.nii.gz", "truth, 64 mL; axial  S 32 mm"],
        ["median: a/ct.nii.gz", "truth, 64 mL; axial  S 32 mm"],
    ]
    for (*_, caption), dice in zip(captions, ("0.400", "0.800"), strict=True):
        assert re.fullmatch(rf"prediction, 64 mL; Dice {dice}, NSD 0\.\d{{3}}, HD95 \d+\.0 mm", caption)
    for image, truth, prediction in rows:
        assert image.sections == {}
        assert truth.sections.keys() == prediction.sections.keys() == {class_set[LIVER]}, "no other class is drawn"
    tops = [np.argwhere(cell.sections[class_set[LIVER]])[:, 0].min() for cell in rows[1][1:]]
    assert tops[0] - tops[1] == shifts["a"]
    picture = pixels(tmp_path / "classes" / "liver.png")
    assert picture.shape[1] == 1500
    assert (np.abs(picture - class_set[LIVER].color).max(-1) <= 2).any()


def test_without_a_case_to_score_stale_pictures_are_removed(class_set: ClassSet, tmp_path: Path) -> None:
    evaluate(class_set, tmp_path, [result(class_set, "/data/a/ct.nii.gz", 0)])
    assert (tmp_path / "worst.png").is_file()
    evaluate(class_set, tmp_path, [result(class_set, "/data/a/ct.nii.gz", 0, liver=False)])
    assert list(tmp_path.rglob("*.png")) == []


def test_a_case_takes_little_memory(class_set: ClassSet, tmp_path: Path) -> None:
    (case,) = evaluate(class_set, tmp_path, [result(class_set, "/data/a/ct.nii.gz", 3)]).store.data
    assert len(case.packed) < 10_000  # the volumes are 46 080 voxels each
    assert case.sections.keys() == {SPLEEN, LIVER}
    assert all(len(section) < 2_000 for section in case.sections.values())
    assert repr(pickle.loads(pickle.dumps(case))) == repr(case), "processes exchange it"
    for panel in unpack(case.packed):
        truth, prediction = panel.layers
        assert class_set[LIVER] in truth
        assert truth[class_set[LIVER]].shape == prediction[class_set[LIVER]].shape == panel.pixels.shape
