"""Data sets on disk: dataset.json, list files, folds, sampling, the cache of prepared cases."""

from custom.datasets.cache import create_dataset
from custom.datasets.dataset_json import highest_label_value, labelled_names, read_data_list, warn_of_unlearned
from custom.datasets.folds import describe_cases, read_fold
from custom.datasets.image_paths import list_images
from custom.datasets.labels import value_table
from custom.datasets.samplers import CaseSampler

__all__ = [
    "CaseSampler",
    "create_dataset",
    "describe_cases",
    "highest_label_value",
    "labelled_names",
    "list_images",
    "read_data_list",
    "read_fold",
    "value_table",
    "warn_of_unlearned",
]
