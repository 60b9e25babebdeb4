"""Segmenting one image under prompts: windows encoded once, decoded per prompt, masks on the image's own grid.

``PromptedInferer`` is the single forward pass of training, ``PromptedSlidingWindowInferer`` returns logits of whole
volumes, ``SegmentingInferer`` returns masks. Below them, ``windows`` cuts a volume and accumulates logits,
``window_predictor`` runs the network within memory, and ``feature_cache`` keeps encoded windows for the next prompt.

To add an inferer: a class with MONAI's ``Inferer.__call__(inputs, network, ...)`` in a file here, listed below, and
``inferer`` in a bundle's config. Networks need the methods in ``protocols``, nothing else.
"""

from custom.inferers.feature_cache import FeatureCache, fitting_cache
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
