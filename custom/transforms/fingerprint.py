"""Fingerprints of images that do not depend on file names or axes."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.transforms import MapTransform


class Fingerprintd(MapTransform):
    """Add ``fingerprint``: sorted lengths of the axes, standard deviation of all voxels, and their mean in units of it.

    Equal for copies of an image with other axes, header or name, unless they were clipped or resampled; different for
    any two scans in practice.

    Args:
        keys: the image (C, H, W, D), as loaded.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            values = result[key].as_tensor().numpy()
            mean = float(values.mean(dtype=np.float64))
            variance = sum(float(np.square(part - mean, dtype=np.float64).sum()) for part in values[0]) / values.size
            shape = " x ".join(map(str, sorted(values.shape)))
            deviation = variance**0.5
            result["fingerprint"] = f"{shape}, {deviation:.6g}, {mean / (deviation or 1):.5f}"
        return result
