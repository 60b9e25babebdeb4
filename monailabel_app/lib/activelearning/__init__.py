"""Active learning: which image to label next, and the scores that decide it.

To add a strategy: subclass ``UnlabelledStrategy`` in `uncertainty` (or MONAI Label's ``Strategy``) and name it in
``DeepFiLMApp.init_strategies``; a scoring method likewise, in ``init_scoring_methods``.
"""
