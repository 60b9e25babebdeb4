"""Prepare all cases of a data set, several at once, and report what they contain."""

import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.data import Dataset
from monai.transforms import Compose
from torch.utils.data import DataLoader
from tqdm import tqdm

from custom.anatomy.class_set import ClassSet
from custom.datasets.cache import PreparedDataset
from custom.datasets.dataset_json import SPLITS, list_splits, read_data_list
from custom.tools.preparation.report import quality_check, write_report
from custom.utils.errors import root_cause
from custom.utils.files import check_folders


def prepare_data_set(
    dataset_dir: str | Path,
    *,
    cache_dir: str | Path,
    output_dir: str | Path,
    config_file: str | Path | Sequence[str],
    overrides: Mapping[str, Any],
    num_workers: int = 0,
) -> dict[str, Any]:
    """Fill the cache with every labelled case of a data set folder, and write a report of them to ``output_dir``.

    Cases are prepared as by a training with ``config_file`` and ``overrides``, which then finds them all. Existing
    entries are kept. A case that cannot be prepared does not stop the others.

    Args:
        output_dir: receives preparation.json and preparation.csv.
        config_file: of a bundle's training; several overlay each other.
        overrides: settings, as on the training's command line.
        num_workers: processes that prepare; 0 prepares in this one.

    Returns:
        The report (``custom.tools.preparation.report.summarise``), with ``new``, how many cases this call prepared.

    Raises:
        ValueError: a setting that the config does not have, or no labelled case.
    """
    check_folders([cache_dir, output_dir])
    parser = ConfigParser()
    parser.read_config(config_file)
    for setting in overrides:
        if (name := setting.replace("#", "::").partition("::")[0]) not in parser:
            near = ", ".join(get_close_matches(name, parser.get().keys(), n=3))
            raise ValueError(f"--{setting} is no setting of {config_file}{'; near it: ' if near else ''}{near}.")
    parser.update(pairs={**overrides, "dataset_dir": str(dataset_dir), "cache_dir": str(cache_dir)})
    class_set: ClassSet = parser.get_parsed_content("class_set")
    preparation: Compose = parser.get_parsed_content("preprocessing")
    splits = list_splits(dataset_dir)
    data = [(split, item) for split in splits for item in read_data_list(dataset_dir, split, class_set)]
    if not data:
        raise ValueError(f"{dataset_dir}/dataset.json must list labelled cases under one of {', '.join(SPLITS)}.")
    dataset = PreparedDataset([item for _, item in data], Compose([]), preparation=preparation, cache_dir=cache_dir)
    checks = Dataset(range(len(data)), partial(_prepare_case, dataset, class_set))
    results = DataLoader(checks, batch_size=None, num_workers=num_workers, worker_init_fn=_ignore_interrupts)
    cases, refused = [], Counter[str]()
    for (split, item), facts in zip(data, tqdm(results, desc="preparing", unit="case", disable=None), strict=True):
        cases.append({key: item[key] for key in ("dataset", "image", "label")} | {"split": split} | facts)
        if "error" in facts:
            reason = facts["error"].replace(item["image"], "the image").replace(item["label"], "the label")
            if not refused[reason]:
                tqdm.write(f"Not prepared: {Path(item['label']).name}: {facts['error']}")
            refused[reason] += 1
    for count in refused.values():
        if count > 1:
            tqdm.write(f"Not prepared for that reason: {count} of {len(data)} cases; preparation.csv lists them.")
    return write_report(cases, class_set, output_dir) | {"new": sum(case.get("new", False) for case in cases)}


def _prepare_case(dataset: PreparedDataset, class_set: ClassSet, index: int) -> dict[str, Any]:
    """``quality_check`` with ``new``, whether this call prepared the case; or ``error``, a text."""
    try:
        new = not dataset.entry(dataset.data[index]).is_file()
        return quality_check(dataset.prepared(index), class_set) | {"new": new}
    except Exception as error:
        cause = root_cause(error)
        return {"error": str(cause) or type(cause).__name__}


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C is handled once, by the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
