"""Scaling of intensities for the network."""

from monai.config import KeysCollection
from monai.transforms import MapTransform, ScaleIntensityRanged, ScaleIntensityRangePercentilesd

from custom.anatomy.class_set import ClassSet


def scale_intensity(keys: KeysCollection, class_set: ClassSet) -> MapTransform:
    """MONAI's transform that maps the class set's intensity window or percentiles to [0, 1] and clips."""
    scale = ScaleIntensityRangePercentilesd if class_set.percentiles else ScaleIntensityRanged
    return scale(keys, *class_set.intensity_window, 0.0, 1.0, clip=True)
