"""Fingerprints of images that do not depend on file names or axes."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.transforms import MapTransform


class Fingerprintd(MapTransform):
    """Add ``fingerprint``: sorted lengths of the axes, standard deviation of all voxels, and their mean in units of it.

    Of an image (C, H, W, D) as loaded. Equal for copies with other axes, header or name, unless they were clipped or
    resampled; different for any two scans in practice.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            values = result[key].as_tensor().numpy()
            mean = float(values.mean(dtype=np.float64))
            squares = sum(float(np.square(part - mean, dtype=np.float64).sum()) for part in values[0])
            deviation = (squares / values.size) ** 0.5
            shape = " x ".join(map(str, sorted(values.shape)))
            result["fingerprint"] = f"{shape}, {deviation:.6g}, {mean / (deviation or 1):.5f}"
        return result
