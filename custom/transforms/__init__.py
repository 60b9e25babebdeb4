"""MONAI transforms that MONAI lacks."""

from custom.transforms.fingerprint import Fingerprintd
from custom.transforms.intensity import scale_intensity
from custom.transforms.labels import ClearUnlabelledd, LabelsToTargetd
from custom.transforms.load import LoadVolumed
from custom.transforms.per_dataset import ApplyByDatasetd
from custom.transforms.postprocessing import PostProcessd
from custom.transforms.sides import SplitSidesd
from custom.transforms.spacing import LinearSpacingd
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
