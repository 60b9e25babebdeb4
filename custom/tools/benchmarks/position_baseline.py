"""Segmentation without a network, by intensity thresholds and mean position: a baseline that any network must beat.

For every class the training cases give its HU range and its mean position in the body's bounding box. A voxel is
predicted where its HU is in the range and its position within r standard deviations of the mean, where r maximises Dice
on the training cases. One standard deviation for all axes makes a ball; a harder baseline takes the covariance, which
makes an ellipsoid, and keeps the largest component.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cc3d
import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, Spacingd
from rich.progress import track

from custom.anatomy.class_set import ClassSet
from custom.anatomy.loading import load_class_set
from custom.datasets.dataset_json import read_data_list
from custom.evaluation.report import as_csv, write_text

KEYS = ("image", "label")
RADII = np.arange(0.5, 3.01, 0.25)
VOXELS_PER_CASE = 2000  # of a class, to fit

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Volume(NamedTuple):
    """A case on the working grid: image (H, W, D) in HU, positions (H, W, D, 3), and truth (K, H, W, D).

    Positions are relative to the body's bounding box, 0 to 1 along each axis.
    """

    image: Floats
    positions: Floats
    truth: Mask


def read_volume(case: dict[str, Any], class_set: ClassSet, *, spacing: float) -> Volume:
    """Read a data dict of ``read_data_list`` and bring it to voxels of ``spacing`` mm."""
    read = Compose(
        [
            LoadImaged(KEYS),
            EnsureChannelFirstd(KEYS),
            Orientationd(KEYS, axcodes="RAS", labels=None),
            Spacingd(KEYS, pixdim=(spacing,) * 3, mode=("bilinear", "nearest")),
        ]
    )
    item: Any = read(case)
    image, label = (item[key][0].numpy() for key in KEYS)
    body = np.nonzero(_largest(image > class_set.intensity_window[0]))
    axes = [
        (np.arange(size) - found.min()) / max(int(np.ptp(found)), 1)
        for size, found in zip(image.shape, body, strict=True)
    ]
    truth = (case["value_table"].numpy() == 1)[label.astype(int)]
    return Volume(image, np.stack(np.meshgrid(*axes, indexing="ij"), -1), np.moveaxis(truth, -1, 0))


def fit(volumes: Sequence[Volume], index: int, *, ellipsoid: bool) -> Callable[[Volume], Mask]:
    """Fit one of the baselines, for the class ``index`` (1-based); the result predicts its mask (H, W, D).

    Raises:
        ValueError: no volume holds the class.
    """
    present = [(volume, volume.truth[index - 1]) for volume in volumes if volume.truth[index - 1].any()]
    if not present:
        raise ValueError(f"Class {index} is labelled but in no training case: add cases that contain it.")
    random = np.random.default_rng(0)
    hu = np.concatenate([random.choice(volume.image[truth], VOXELS_PER_CASE) for volume, truth in present])
    positions = np.concatenate([random.choice(volume.positions[truth], VOXELS_PER_CASE) for volume, truth in present])
    low, high = np.percentile(hu, (2.5, 97.5))
    mean = positions.mean(0)
    covariance = np.cov(positions.T) if ellipsoid else np.eye(3) * positions.var(0).mean()
    precision = np.linalg.inv(covariance + 1e-6 * np.eye(3))

    def distance(volume: Volume) -> Floats:
        """Mahalanobis distance from the mean position; infinite where the HU are out of the range."""
        offset = volume.positions - mean
        squares = np.einsum("...i,ij,...j", offset, precision, offset)
        return np.where((low <= volume.image) & (volume.image <= high), np.sqrt(squares), np.inf)

    clean = _largest if ellipsoid else np.asarray
    scores = np.zeros(len(RADII))
    for volume, truth in present:
        far = distance(volume)
        scores += [dice(clean(far <= radius), truth) for radius in RADII]
    return lambda volume: clean(distance(volume) <= RADII[scores.argmax()])


def dice(predicted: Mask, truth: Mask) -> float:
    """2 overlap / (predicted + truth); 1 where both masks are empty."""
    voxels = float(predicted.sum() + truth.sum())
    return 2 * float((predicted & truth).sum()) / voxels if voxels else 1.0


def score_baseline(
    *, training_dir: str, test_dir: str, output: str, spacing: float = 6.0, training_cases: int = 30
) -> None:
    """Fit both baselines on the training split of one data set and score them on the test split of another.

    Example: python scripts/benchmark.py baseline --training_dir data/demo_train --test_dir data/phantoms --output b.csv

    Args:
        training_dir: Folder with a dataset.json whose first ``training_cases`` training cases are used.
        test_dir: Folder with a dataset.json whose test cases are scored.
        output: CSV file to write: baseline, class, cases, Dice.
        spacing: Working voxel size in mm, the network's for a fair comparison.
    """
    class_set = load_class_set()
    cases = read_data_list(training_dir, "training", class_set)[:training_cases]
    training = [read_volume(case, class_set, spacing=spacing) for case in cases]
    unseen = [read_volume(case, class_set, spacing=spacing) for case in read_data_list(test_dir, "test", class_set)]
    labelled = torch.stack([case["value_table"][0] == 0 for case in cases]).any(0).nonzero().flatten()
    rows = []
    for shape in ("ball", "ellipsoid"):
        means = []
        for index in track((labelled + 1).tolist(), shape):
            predict = fit(training, index, ellipsoid=shape == "ellipsoid")
            present = [(volume, volume.truth[index - 1]) for volume in unseen if volume.truth[index - 1].any()]
            if found := [dice(predict(volume), truth) for volume, truth in present]:
                means.append((class_set[index].name, len(found), np.mean(found)))
        means.append(("all classes", len(unseen), np.mean([mean for _, _, mean in means])))
        rows += [{"baseline": shape, "name": name, "cases": count, "dice": mean} for name, count, mean in means]
    write_text(Path(output), as_csv(rows))
    for row in rows:
        print(f"{row['baseline']:<10} {row['name']:<30} {row['cases']:>3} {row['dice']:.3f}")


def _largest(mask: Mask) -> Mask:
    return np.asarray(cc3d.largest_k(mask, k=1) > 0) if mask.any() else mask
