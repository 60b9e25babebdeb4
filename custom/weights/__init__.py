"""Weights files: safetensors with a header in two layers; public checkpoints; where a training starts from.

``header`` says what every file states (network, settings, provenance) and which section a family of bundles adds;
``volume`` is the section of 3D organ segmentation. To add a family: its section in ``header.SECTIONS``, and a module
beside ``volume`` that describes, reads and checks it. To add a public checkpoint's layout: ``LAYOUTS`` of its network.
"""

from custom.weights.pretrained import check_source, load_pretrained
from custom.weights.volume import check_class_set, describe_volume_weights, load_volume_weights, read_volume_settings

__all__ = [
    "check_class_set",
    "check_source",
    "describe_volume_weights",
    "load_pretrained",
    "load_volume_weights",
    "read_volume_settings",
]
