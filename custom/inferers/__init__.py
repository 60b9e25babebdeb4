"""One image under prompts: windows encoded once, decoded per prompt, masks on the image's grid."""

from custom.inferers.feature_cache import FeatureCache
from custom.inferers.memory_limits import fitting_cache
from custom.inferers.progress import WindowProgress
from custom.inferers.segmentation import SegmentingInferer
from custom.inferers.simple import PromptedInferer
from custom.inferers.sliding_window import PromptedSlidingWindowInferer

__all__ = [
    "FeatureCache",
    "PromptedInferer",
    "PromptedSlidingWindowInferer",
    "SegmentingInferer",
    "WindowProgress",
    "fitting_cache",
]
