"""The baseline without a network finds what intensity and position give away, and nothing else."""

import csv
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from custom.anatomy.class_set import ClassSet
from custom.datasets.dataset_json import read_data_list
from custom.tools.benchmarks.position_baseline import Volume, dice, fit, read_volume, score_baseline
from custom.tools.phantoms.dataset import write_phantoms

NAMES = ("liver", "aorta", "left kidney")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five phantoms to learn from and two unseen ones, at 8 mm."""
    root = tmp_path_factory.mktemp("baseline")
    write_phantoms(root, splits={"training": 5, "test": 2}, spacing=(8.0, 8.0, 8.0), classes=NAMES)
    return root


def volumes(folder: Path, split: str, class_set: ClassSet) -> list[Volume]:
    return [read_volume(case, class_set, spacing=8.0) for case in read_data_list(folder, split, class_set)]


def test_it_finds_organs_of_unseen_phantoms_and_the_ellipsoid_is_harder_to_beat(
    folder: Path, class_set: ClassSet
) -> None:
    training, unseen = volumes(folder, "training", class_set), volumes(folder, "test", class_set)
    scores: dict[tuple[str, bool], float] = {}
    for name, ellipsoid in product(("liver", "aorta"), (False, True)):
        index = class_set.index(name)
        predict = fit(training, index, ellipsoid=ellipsoid)
        scores[name, ellipsoid] = float(np.mean([dice(predict(case), case.truth[index - 1]) for case in unseen]))
    assert scores["liver", False] > 0.6
    assert scores["aorta", True] > scores["aorta", False] + 0.1  # a tube is no ball


def test_nothing_is_predicted_where_intensities_do_not_fit(folder: Path, class_set: ClassSet) -> None:
    training = volumes(folder, "training", class_set)
    image = np.where(training[0].image > -175, 1000.0, -1000.0)
    predict = fit(training, class_set.index("liver"), ellipsoid=True)
    assert not predict(training[0]._replace(image=image)).any()


def test_a_class_that_no_case_contains_is_refused(folder: Path, class_set: ClassSet) -> None:
    with pytest.raises(ValueError, match="labelled but in no training case"):
        fit(volumes(folder, "training", class_set), class_set.index("spleen"), ellipsoid=False)


def test_labelled_classes_are_scored(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "baseline.csv"
    score_baseline(training_dir=str(folder), test_dir=str(folder), output=str(output), spacing=8.0, training_cases=2)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["baseline"] for row in rows] == ["ball"] * 4 + ["ellipsoid"] * 4
    assert {row["name"] for row in rows} == {*NAMES, "all classes"} and {row["cases"] for row in rows} == {"2"}
    means = [float(row["dice"]) for row in rows[:4]]
    assert means[3] == pytest.approx(np.mean(means[:3]))
    assert f"all classes {means[3]:.3f}" in " ".join(capsys.readouterr().out.replace("  2 ", " ").split())
