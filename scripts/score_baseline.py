"""Score the baseline that needs no network: HU thresholds plus mean position per class."""

import csv

import fire
import numpy as np
from rich.progress import track

from custom.anatomy import load_class_set
from custom.baseline import PositionBaseline, dice
from custom.datasets import read_data_list
from custom.files import whole_file


def score_baseline(
    *, training_dir: str, test_dir: str, output: str, spacing: float = 6.0, training_cases: int = 30
) -> None:
    """Fit the baseline on the training split of one data set and score it on the test split of another.

    Example: python scripts/score_baseline.py --training_dir data/demo_train --test_dir data/phantoms --output b.csv

    Args:
        training_dir: Folder with a dataset.json whose training cases it learns from.
        test_dir: Folder with a dataset.json whose test cases it is scored on.
        output: CSV file to write: class, cases, Dice.
        spacing: Working voxel size in mm, the network's for a fair comparison.
        training_cases: How many training cases to learn from.
    """
    class_set = load_class_set()
    cases = read_data_list(training_dir, "training", class_set)[:training_cases]
    baseline = PositionBaseline(cases, class_set, spacing=(spacing,) * 3)
    scores: dict[int, list[float]] = {index: [] for index in baseline.labelled}
    unseen = read_data_list(test_dir, "test", class_set)
    for case in track(unseen, "baseline"):
        image, truth = baseline.volume(case)
        for index, found in scores.items():
            if truth[index - 1].any():
                found.append(dice(baseline.predict(image, index), truth[index - 1]))
    rows = [(class_set[index].name, len(found), float(np.mean(found))) for index, found in scores.items() if found]
    rows.append(("all classes", len(unseen), float(np.mean([row[2] for row in rows]))))
    with whole_file(output) as path, path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("name", "cases", "dice"))
        writer.writerows(rows)
    for name, count, mean in rows:
        print(f"{name:<30} {count:>3} {mean:.3f}")


if __name__ == "__main__":
    fire.Fire(score_baseline)
