"""Weights files: written, read, compared, started from."""

from custom.weights.io import check_knobs, describe_weights, header_value, load_weights, read_header
from custom.weights.pretrained import check_source, start_from

__all__ = [
    "check_knobs",
    "check_source",
    "describe_weights",
    "header_value",
    "load_weights",
    "read_header",
    "start_from",
]
