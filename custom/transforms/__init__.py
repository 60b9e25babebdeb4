"""MONAI transforms that MONAI lacks: targets with unknown channels, prompts, and a choice by data set."""

from custom.transforms.choice import ForDatasetsd
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
from custom.transforms.requests import ResolvePromptd

__all__ = [
    "MAX_CLASSES",
    "MAX_CLASSES_WITH_SYNONYMS",
    "PROMPT_TEXTS",
    "ClearUnlabelledd",
    "EncodePromptd",
    "ForDatasetsd",
    "LabelsToTargetd",
    "ListPromptsd",
    "ResolvePromptd",
    "SamplePromptd",
    "labelled_classes",
    "split_evenly",
]
