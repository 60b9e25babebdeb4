"""Data sets on disk -> data dicts, with what their label values mean."""

from custom.datasets.description import (
    SPLITS,
    UNLABELLED,
    highest_label_value,
    labelled_names,
    list_splits,
    read_data_list,
)
from custom.datasets.images import case_name, list_images
from custom.datasets.labels import UNDECLARED, Sides, side_values, value_table

__all__ = [
    "SPLITS",
    "UNDECLARED",
    "UNLABELLED",
    "Sides",
    "case_name",
    "highest_label_value",
    "labelled_names",
    "list_images",
    "list_splits",
    "read_data_list",
    "side_values",
    "value_table",
]
