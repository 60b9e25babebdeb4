"""Inference with text: half precision where it gains, each window encoded once, decoded once per prompt."""

from custom.inferers.answering import Question
from custom.inferers.features import FeatureCache
from custom.inferers.memory import fitting_cache
from custom.inferers.network import PromptedNetwork
from custom.inferers.precision import autocast, computes_bfloat16
from custom.inferers.segmenting import SegmentingInferer
from custom.inferers.sliding_window import PromptedSlidingWindowInferer
from custom.inferers.whole import PromptedInferer

__all__ = [
    "FeatureCache",
    "PromptedInferer",
    "PromptedNetwork",
    "PromptedSlidingWindowInferer",
    "Question",
    "SegmentingInferer",
    "autocast",
    "computes_bfloat16",
    "fitting_cache",
]
