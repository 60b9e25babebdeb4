"""Data sets on disk -> data dicts, with what their label values mean."""

from custom.datasets.catalogue import CATALOGUE, DataSet, load_catalogue
from custom.datasets.description import (
    SPLITS,
    UNLABELLED,
    highest_label_value,
    labelled_names,
    list_splits,
    read_data_list,
    warn_of_unlearned,
)
from custom.datasets.folds import describe_cases, read_fold
from custom.datasets.images import answer_names, list_images
from custom.datasets.labels import UNDECLARED, Sides, side_values, value_table
from custom.datasets.lists import made_from_lists, read_lists, write_description
from custom.datasets.questions import QuestionDataset, list_questions
from custom.datasets.splitting import Pattern, split_cases, write_lists

__all__ = [
    "CATALOGUE",
    "SPLITS",
    "UNDECLARED",
    "UNLABELLED",
    "DataSet",
    "Pattern",
    "QuestionDataset",
    "Sides",
    "answer_names",
    "describe_cases",
    "highest_label_value",
    "labelled_names",
    "list_images",
    "list_questions",
    "list_splits",
    "load_catalogue",
    "made_from_lists",
    "read_data_list",
    "read_fold",
    "read_lists",
    "side_values",
    "split_cases",
    "value_table",
    "warn_of_unlearned",
    "write_description",
    "write_lists",
]
