"""Segmentation without a network: intensity thresholds plus mean position. What any network must beat by far.

For every class the training cases give the range of its HU and the mean of where it lies in the body's bounding box. A
voxel is predicted where its HU is in the range and its position near the mean: within r standard deviations, r being
what gives the best Dice on the training cases. The standard deviation is that of all axes together, which makes a ball;
a harder baseline takes the covariance, which makes an ellipsoid, and keeps the largest component.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, Spacingd

from custom.anatomy.class_set import ClassSet

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
        """Mahalanobis distance (H, W, D) of positions (H, W, D, 3)."""
        away = positions - self.mean
        return np.asarray(np.sqrt(np.einsum("...i,ij,...j", away, self.precision, away)))


class PositionBaseline:
    """Fit on labelled cases, then predict the classes of an image.

    Args:
        cases: data dicts of ``custom.datasets.read_data_list``.
        class_set: what the labels mean.
        spacing: working voxel size (H, W, D) in mm.
        ellipsoid: use the covariance of positions and keep the largest component: the harder baseline.
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
        """Position (H, W, D, 3) of every voxel in the body's bounding box, 0 to 1 along each axis."""
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
            raise ValueError(f"Class {index} is labelled but in no training case: add cases that hold it.")
        random = np.random.default_rng(0)
        hu = np.concatenate([random.choice(image[truth], _VOXELS_PER_CASE) for image, truth, _ in present])
        places = np.concatenate([random.choice(at[truth], _VOXELS_PER_CASE) for _, truth, at in present])
        low, high = (float(value) for value in np.percentile(hu, _HU_PERCENTILES))
        covariance = np.cov(places.T) if self.ellipsoid else np.eye(3) * places.var(0).mean()
        model = _Model(low, high, places.mean(0), np.asarray(np.linalg.inv(covariance + 1e-6 * np.eye(3)), float))
        scores = np.zeros(len(RADII))
        for image, truth, at in present:
            inside, far = (low <= image) & (image <= high), model.distance(at)
            scores += [dice(self._clean(inside & (far <= radius)), truth) for radius in RADII]
        return _Model(low, high, model.mean, model.precision, float(RADII[scores.argmax()]))


def dice(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """2 overlap / (predicted + truth), of masks of which one at least is not empty."""
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(cc3d.largest_k(mask, k=1) > 0) if mask.any() else mask
