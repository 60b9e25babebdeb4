"""Segmentation without a network, by intensity thresholds and mean position: a baseline that any network must beat.

For every class the training cases give its HU range and its mean position in the body's bounding box. A voxel is
predicted where its HU is in the range and its position within r standard deviations of the mean, where r maximises Dice
on the training cases. One standard deviation for all axes makes a ball; a harder baseline takes the covariance, which
makes an ellipsoid, and keeps the largest component.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, Spacingd
from rich.progress import track

from custom.anatomy.class_set import ClassSet
from custom.anatomy.loading import load_class_set
from custom.datasets.dataset_json import read_data_list
from custom.utils.files import atomic_write

RADII = np.arange(0.5, 3.01, 0.25)
_HU_PERCENTILES = (2.5, 97.5)
_VOXELS_PER_CASE = 2000  # of a class, for the percentiles


@dataclass(frozen=True)
class _Model:
    """HU range, mean (3,) and inverse covariance (3, 3) of positions, and radius of one class."""

    low: float
    high: float
    mean: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    radius: float = float(RADII[-1])

    def distance(self, positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Mahalanobis distance (H, W, D) of positions (H, W, D, 3) from the mean."""
        offset = positions - self.mean
        return np.asarray(np.sqrt(np.einsum("...i,ij,...j", offset, self.precision, offset)))


class PositionBaseline:
    """Fit on labelled cases, then predict the classes of an image.

    Args:
        cases: data dicts of ``read_data_list``.
        class_set: the classes.
        spacing: working voxel size (H, W, D) in mm.
        ellipsoid: the harder baseline, with the covariance of positions and the largest component.
    """

    def __init__(
        self, cases: Sequence[dict[str, Any]], class_set: ClassSet, *, spacing: Sequence[float], ellipsoid: bool
    ) -> None:
        self.ellipsoid = ellipsoid
        self.read = Compose(
            [
                LoadImaged(["image", "label"], image_only=True),
                EnsureChannelFirstd(["image", "label"]),
                Orientationd(["image", "label"], axcodes="RAS", labels=None),
                Spacingd(["image", "label"], pixdim=tuple(spacing), mode=["bilinear", "nearest"]),
            ]
        )
        self.body_above = class_set.intensity_window[0]
        trained_classes = torch.stack([case["value_table"][0] == 0 for case in cases]).any(0)
        self.trained_classes = [index + 1 for index in trained_classes.nonzero().flatten().tolist()]
        volumes = [self.volume(case) for case in cases]
        self.models = {index: self._fit(index, volumes) for index in self.trained_classes}

    def volume(self, case: dict[str, Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Image (H, W, D) in HU and truth (K, H, W, D) of a case on the working grid."""
        item: Any = self.read(case)
        table = case["value_table"].numpy() == 1
        return item["image"][0].numpy(), np.moveaxis(table[item["label"][0].numpy().astype(int)], -1, 0)

    def positions(self, image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Relative position (H, W, D, 3) of every voxel in the body's bounding box, 0 to 1 along each axis."""
        body = np.nonzero(_largest(image > self.body_above))
        axes = [
            (np.arange(size) - found.min()) / max(int(np.ptp(found)), 1)
            for size, found in zip(image.shape, body, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1)

    def predict(self, image: npt.NDArray[np.float64], index: int) -> npt.NDArray[np.bool_]:
        """Mask (H, W, D) of a class (1-based) in an image (H, W, D) in HU on the working grid."""
        model = self.models[index]
        inside = (model.low <= image) & (image <= model.high)
        return self._clean(inside & (model.distance(self.positions(image)) <= model.radius))

    def _clean(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return _largest(mask) if self.ellipsoid else mask

    def _fit(self, index: int, volumes: Iterable[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]]) -> _Model:
        present = [
            (image, truth[index - 1], self.positions(image)) for image, truth in volumes if truth[index - 1].any()
        ]
        if not present:
            raise ValueError(f"Class {index} is labelled but in no training case: add cases that contain it.")
        random = np.random.default_rng(0)
        hu = np.concatenate([random.choice(image[truth], _VOXELS_PER_CASE) for image, truth, _ in present])
        positions = np.concatenate([random.choice(at[truth], _VOXELS_PER_CASE) for _, truth, at in present])
        low, high = (float(value) for value in np.percentile(hu, _HU_PERCENTILES))
        covariance = np.cov(positions.T) if self.ellipsoid else np.eye(3) * positions.var(0).mean()
        model = _Model(low, high, positions.mean(0), np.asarray(np.linalg.inv(covariance + 1e-6 * np.eye(3)), float))
        scores = np.zeros(len(RADII))
        for image, truth, at in present:
            inside, far = (low <= image) & (image <= high), model.distance(at)
            scores += [dice(self._clean(inside & (far <= radius)), truth) for radius in RADII]
        return replace(model, radius=float(RADII[scores.argmax()]))


def dice(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """2 overlap / (predicted + truth); 1 where both masks are empty."""
    voxels = float(predicted.sum() + truth.sum())
    return 2 * float((predicted & truth).sum()) / voxels if voxels else 1.0


def score_baseline(
    *, training_dir: str, test_dir: str, output: str, spacing: float = 6.0, training_cases: int = 30
) -> None:
    """Fit both baselines on the training split of one data set and score them on the test split of another.

    Example: python scripts/score_baseline.py --training_dir data/demo_train --test_dir data/phantoms --output b.csv

    Args:
        training_dir: Folder with a dataset.json whose first training cases are used.
        test_dir: Folder with a dataset.json whose test cases are scored.
        output: CSV file to write: baseline, class, cases, Dice.
        spacing: Working voxel size in mm, the network's for a fair comparison.
        training_cases: Number of training cases.
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


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(cc3d.largest_k(mask, k=1) > 0) if mask.any() else mask
