"""Weights files: written, read, compared, started from."""

from custom.weights.io import check_settings, describe_weights, header_value, load_weights, read_header
from custom.weights.pretrained import check_source, load_pretrained

__all__ = [
    "check_settings",
    "check_source",
    "describe_weights",
    "header_value",
    "load_pretrained",
    "load_weights",
    "read_header",
]
