"""Inference: a task serves an exported bundle, another many images (`prompted`), with a cache of volumes.

To add an infer task: subclass MONAI Label's ``InferTask`` (or ``PromptedInferTask``) in a module here and name it in
``DeepFiLMApp.init_infers``; fields that its requests may have go into ``lib/schemas.py``.
"""
