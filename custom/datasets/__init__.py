"""Data sets on disk: ``dataset.json``, list files, the catalogue of public data sets, folds, sampling, prepared cases.

``dataset_json`` reads the cases of a data set, ``labels`` the meaning of their label values; ``list_files`` makes a
``dataset.json`` of list files, and ``splitting`` list files of folders; ``cache`` stores prepared cases.

To add a public data set: a row in ``catalogue.json``. To add another source of cases: a module like ``list_files`` that
returns the content of a ``dataset.json``.
"""

from custom.datasets.cache import create_dataset
from custom.datasets.dataset_json import Cases, describe_cases, warn_of_unlearned
from custom.datasets.image_paths import list_images
from custom.datasets.samplers import CaseSampler

__all__ = [
    "CaseSampler",
    "Cases",
    "create_dataset",
    "describe_cases",
    "list_images",
    "warn_of_unlearned",
]
