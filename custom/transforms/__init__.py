"""MONAI transforms that MONAI lacks: loading with checks, targets with unknowns, sides, prompts, post-processing.

``load``, ``sides`` and ``intensity`` prepare a case; ``labels``, ``per_dataset`` and ``training_prompts`` follow in
training; ``resampling`` and ``postprocessing`` serve inference.

To add a transform: a class in the module of its subject, its name here, and its entry in the bundles' configs. One that
runs before the cache is deterministic, and all its parameters are attributes (``custom.datasets.cache_keys``).
"""

from custom.transforms.fingerprint import Fingerprintd
from custom.transforms.intensity import scale_intensity
from custom.transforms.labels import ClearUnlabelledd, LabelsToTargetd
from custom.transforms.load import LoadVolumed
from custom.transforms.per_dataset import ApplyByDatasetd
from custom.transforms.postprocessing import PostProcessd
from custom.transforms.resampling import LinearSpacingd
from custom.transforms.sides import SplitSidesd
from custom.transforms.training_prompts import EncodePromptd, SamplePromptd, ValidationPromptsd

__all__ = [
    "ApplyByDatasetd",
    "ClearUnlabelledd",
    "EncodePromptd",
    "Fingerprintd",
    "LabelsToTargetd",
    "LinearSpacingd",
    "LoadVolumed",
    "PostProcessd",
    "SamplePromptd",
    "SplitSidesd",
    "ValidationPromptsd",
    "scale_intensity",
]
