"""Active learning: which image to label next, and the scores that decide it.

To add a strategy: name it in ``STRATEGIES`` of `uncertainty`, an ``UnlabelledStrategy`` or another of MONAI Label's;
a scoring method in ``DeepFiLMApp.init_scoring_methods``.
"""
