"""From data sets on disk to cases that a training loads in an instant, and a report of what they hold."""

from custom.preparation.dataset import PreparedDataset, create_dataset
from custom.preparation.filling import prepare_data_set

__all__ = ["PreparedDataset", "create_dataset", "prepare_data_set"]
