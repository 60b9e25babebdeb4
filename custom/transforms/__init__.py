"""MONAI transforms that MONAI lacks: sides, targets with unknown channels, prompts, a choice by data set."""

from custom.transforms.choice import ForDatasetsd
from custom.transforms.fingerprint import Fingerprintd
from custom.transforms.intensity import scale_intensity
from custom.transforms.labels import ClearUnlabelledd, LabelsToTargetd, labelled_classes
from custom.transforms.prompts import (
    MAX_CLASSES,
    MAX_CLASSES_WITH_SYNONYMS,
    PROMPT_TEXTS,
    EncodePromptd,
    ListPromptsd,
    SamplePromptd,
    split_evenly,
)
from custom.transforms.requests import MirrorPromptd, ResolvePromptd
from custom.transforms.sides import SplitSidesd, body_points, middle_of_body
from custom.transforms.spacing import LinearSpacingd

__all__ = [
    "MAX_CLASSES",
    "MAX_CLASSES_WITH_SYNONYMS",
    "PROMPT_TEXTS",
    "ClearUnlabelledd",
    "EncodePromptd",
    "Fingerprintd",
    "ForDatasetsd",
    "LabelsToTargetd",
    "LinearSpacingd",
    "ListPromptsd",
    "MirrorPromptd",
    "ResolvePromptd",
    "SamplePromptd",
    "SplitSidesd",
    "body_points",
    "labelled_classes",
    "middle_of_body",
    "scale_intensity",
    "split_evenly",
]
