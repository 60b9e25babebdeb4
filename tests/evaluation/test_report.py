"""The files that an evaluation writes."""

import csv
import math
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.utils import CommonKeys

from custom.anatomy.class_set import ClassSet
from custom.evaluation.report import EvaluationReport, reference_lines
from custom.evaluation.surface_metrics import CASE_METRICS, CaseMetrics
from custom.evaluation.voxel_counts import VoxelCounts

LIVER, LIVER_TUMOR = 6, 27


def metrics(case: str, dataset: str, label: int, dice: float, predicted_ml: float = 50) -> CaseMetrics:
    absent = math.isnan(dice)
    return CaseMetrics(
        case, dataset, label, dice, dice, dice, math.nan if absent else 4, 0 if absent else 60, predicted_ml
    )


METRICS = [
    metrics("x/a.nii.gz", "10_03", LIVER, 0.9706),
    metrics("x/a.nii.gz", "10_03", LIVER_TUMOR, 0.5),
    metrics("x/b.nii.gz", "10_03", LIVER_TUMOR, 0.8376),
    metrics("x/b.nii.gz", "10_03", LIVER, 0.9706),
    metrics("y/c.nii.gz", "01", LIVER, 0.0, predicted_ml=0),
    metrics("x/d.nii.gz", "10_03", LIVER_TUMOR, math.nan, predicted_ml=1),
    metrics("x/e.nii.gz", "10_03", LIVER_TUMOR, math.nan, predicted_ml=7),
]


def test_lines_as_the_references_print_them(class_set: ClassSet) -> None:
    assert reference_lines(METRICS, class_set) == (
        "Task01| Liver: 0.0000, \n"
        "Task10_03| Liver: 0.9706, Liver Tumor: 0.6688, \n"
        "Average | Liver: 0.6471, Liver Tumor: 0.6688, \n"
    )


def report(class_set: ClassSet, folder: Path) -> None:
    def counts(entry: CaseMetrics) -> VoxelCounts:
        size = int(entry.truth_ml)
        return VoxelCounts(entry.case, (entry.label,), entry.label, size, size, size, 1.0, dataset=entry.dataset)

    batches: list[dict[str, Any]] = [{CommonKeys.PRED: [counts(entry)], CASE_METRICS: [entry]} for entry in METRICS]
    engine = Engine(lambda engine, batch: batch)
    EvaluationReport(class_set, folder).attach(engine)
    engine.run(batches)


def test_the_worst_cases_come_first_and_absent_classes_last(class_set: ClassSet, tmp_path: Path) -> None:
    report(class_set, tmp_path)
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("case", "dataset", "class", "dice", "hd95", "predicted_ml")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        ("y/c.nii.gz", "01", "liver", "0.0", "4", "0"),
        ("x/a.nii.gz", "10_03", "liver tumor", "0.5", "4", "50"),
        ("x/b.nii.gz", "10_03", "liver tumor", "0.8376", "4", "50"),
        ("x/a.nii.gz", "10_03", "liver", "0.9706", "4", "50"),
        ("x/b.nii.gz", "10_03", "liver", "0.9706", "4", "50"),
        ("x/e.nii.gz", "10_03", "liver tumor", "", "", "7"),
        ("x/d.nii.gz", "10_03", "liver tumor", "", "", "1"),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("scores.json", "scores.csv", "cases.csv", "results.txt", "counts.csv"),
    }


def test_scores_cover_all_cases_and_each_data_set(class_set: ClassSet, tmp_path: Path) -> None:
    report(class_set, tmp_path)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = {(row["dataset"], row["name"]): row for row in csv.DictReader(file)}
    assert list(rows) == [
        *(("all", name) for name in ("liver", "liver tumor", "all classes")),
        *(("01", name) for name in ("liver", "all classes")),
        *(("10_03", name) for name in ("liver", "liver tumor", "all classes")),
    ]
    assert (rows["01", "liver"]["missed"], rows["01", "liver"]["final_dice"]) == ("1", "0.0")
    assert rows["all", "liver"]["cases"] == "3"
