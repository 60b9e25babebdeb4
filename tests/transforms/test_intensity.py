"""The scale of intensities that a class set declares."""

import torch

from custom.anatomy.class_set import ClassSet
from custom.anatomy.loading import load_class_set
from custom.transforms.intensity import scale_intensity


def test_intensities_are_scaled_by_the_class_set(class_set: ClassSet) -> None:
    """CT by its window in HU; MR, which has no unit, independent of a factor."""
    image = torch.linspace(-200, 300, 1001)[None, None]
    scaled = scale_intensity("image", class_set)({"image": image})["image"]
    torch.testing.assert_close(scaled.as_tensor(), ((image + 175) / 425).clamp(0, 1))
    once, thrice = (
        scale_intensity("image", load_class_set("hippocampus"))({"image": factor * (image + 200)})["image"].as_tensor()
        for factor in (1, 3)
    )
    torch.testing.assert_close(once, thrice)
    torch.testing.assert_close(once, ((torch.linspace(0, 100, 1001)[None, None] - 0.5) / 99).clamp(0, 1))
