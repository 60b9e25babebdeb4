"""Score the baselines that need no network: HU thresholds plus mean position per class."""

import csv

import numpy as np
from rich.progress import track

from custom.anatomy.loading import load_class_set
from custom.datasets.dataset_json import read_data_list
from custom.tools.benchmarks.position_baseline import PositionBaseline, dice
from custom.tools.command_line import run_script
from custom.utils.files import atomic_write


def score_baseline(
    *, training_dir: str, test_dir: str, output: str, spacing: float = 6.0, training_cases: int = 30
) -> None:
    """Fit the baseline on the training split of one data set and score it on the test split of another.

    Example: python scripts/score_baseline.py --training_dir data/demo_train --test_dir data/phantoms --output b.csv

    Args:
        training_dir: Folder with a dataset.json whose training cases it learns from.
        test_dir: Folder with a dataset.json whose test cases it is scored on.
        output: CSV file to write: baseline, class, cases, Dice.
        spacing: Working voxel size in mm, the network's for a fair comparison.
        training_cases: How many training cases to learn from.
    """
    class_set = load_class_set()
    cases = read_data_list(training_dir, "training", class_set)[:training_cases]
    unseen = read_data_list(test_dir, "test", class_set)
    rows = []
    for shape in ("ball", "ellipsoid"):
        baseline = PositionBaseline(cases, class_set, spacing=(spacing,) * 3, ellipsoid=shape == "ellipsoid")
        scores: dict[int, list[float]] = {index: [] for index in baseline.trained_classes}
        for case in track(unseen, shape):
            image, truth = baseline.volume(case)
            for index, found in scores.items():
                if truth[index - 1].any():
                    found.append(dice(baseline.predict(image, index), truth[index - 1]))
        means = [(class_set[index].name, len(found), float(np.mean(found))) for index, found in scores.items() if found]
        means.append(("all classes", len(unseen), float(np.mean([mean[2] for mean in means]))))
        rows += [(shape, *mean) for mean in means]
    with atomic_write(output) as path, path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("baseline", "name", "cases", "dice"))
        writer.writerows(rows)
    for shape, name, count, mean in rows:
        print(f"{shape:<10} {name:<30} {count:>3} {mean:.3f}")


if __name__ == "__main__":
    run_script(score_baseline)
