"""The baseline without a network finds what intensity and position give away, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from custom.anatomy.class_set import ClassSet
from custom.datasets.dataset_json import read_data_list
from custom.tools.benchmarks.position_baseline import PositionBaseline, dice
from custom.tools.phantoms.dataset import write_phantoms

NAMES = ("liver", "aorta", "left kidney")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five phantoms to learn from and two unseen ones, at 8 mm."""
    root = tmp_path_factory.mktemp("baseline")
    write_phantoms(root, splits={"training": 5, "test": 2}, spacing=(8.0, 8.0, 8.0), classes=NAMES)
    return root


def scores(folder: Path, class_set: ClassSet, *, ellipsoid: bool) -> dict[str, float]:
    training = read_data_list(folder, "training", class_set)
    baseline = PositionBaseline(training, class_set, spacing=(8.0,) * 3, ellipsoid=ellipsoid)
    unseen = [baseline.volume(case) for case in read_data_list(folder, "test", class_set)]
    return {
        class_set[index].name: float(
            np.mean([dice(baseline.predict(image, index), truth[index - 1]) for image, truth in unseen])
        )
        for index in baseline.trained_classes
    }


def test_it_finds_organs_of_unseen_phantoms_and_the_ellipsoid_is_harder_to_beat(
    folder: Path, class_set: ClassSet
) -> None:
    ball, ellipsoid = (scores(folder, class_set, ellipsoid=value) for value in (False, True))
    assert set(ball) == set(ellipsoid) == set(NAMES)
    assert ball["liver"] > 0.6
    assert ellipsoid["aorta"] > ball["aorta"] + 0.1  # a tube is no ball


def test_nothing_is_predicted_where_intensities_do_not_fit(folder: Path, class_set: ClassSet) -> None:
    training = read_data_list(folder, "training", class_set)
    baseline = PositionBaseline(training, class_set, spacing=(8.0,) * 3, ellipsoid=True)
    image, _ = baseline.volume(training[0])
    assert not baseline.predict(np.where(image > -175, 1000.0, -1000.0), class_set.index("liver")).any()


def test_a_class_that_no_case_contains_is_refused(folder: Path, class_set: ClassSet) -> None:
    case = read_data_list(folder, "training", class_set)[0]
    table = case["value_table"].clone()
    table[0, class_set.index("spleen") - 1] = 0  # labelled, and nowhere
    with pytest.raises(ValueError, match="labelled but in no training case"):
        PositionBaseline([case | {"value_table": table}], class_set, spacing=(8.0,) * 3, ellipsoid=False)
