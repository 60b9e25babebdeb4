"""Fingerprints of an image: equal with other axes, different for other images."""

from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor

from custom.tools.phantoms.scene import make_phantom
from custom.transforms.fingerprint import Fingerprintd


def fingerprint(image: npt.NDArray[Any]) -> str:
    found = Fingerprintd("image")({"image": MetaTensor(image[None].astype(np.float32))})["fingerprint"]
    return str(found)


def test_a_reoriented_copy_is_recognised_and_another_image_is_not() -> None:
    image = make_phantom(3, spacing=(8.0, 8.0, 8.0)).image
    assert fingerprint(image) == fingerprint(np.moveaxis(image[::-1, :, ::-1], 2, 0))
    assert f"{image.std():.6g}, {image.mean() / image.std():.5f}" in fingerprint(image)
    other = image.copy()
    other[10, 10, 10] += 100
    assert fingerprint(image) != fingerprint(other)
    assert fingerprint(image / 1e6) != fingerprint(other / 1e6)
    assert fingerprint(image) != fingerprint(make_phantom(4, spacing=(8.0, 8.0, 8.0)).image)
