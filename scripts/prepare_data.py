"""Make one data set of list files, prepare its cases for training once, and report what they hold."""

import shlex
import sys
from pathlib import Path
from typing import Any

import fire

from custom.anatomy import load_class_set
from custom.datasets import load_catalogue, read_lists, write_description
from custom.preparation import prepare_data_set

CONFIG = Path(__file__).resolve().parents[1] / "bundles" / "film_swinunetr" / "configs" / "train.json"


def prepare_data(
    dataset_dir: str,
    *,
    lists: str | tuple[str, ...] = (),
    lists_dir: str = "dataset/dataset_list",
    data_root: str = ".",
    catalogue: str | None = None,
    cache_dir: str | None = None,
    output_dir: str | None = None,
    config_file: str | list[str] = str(CONFIG),
    num_workers: int = 0,
    **overrides: Any,
) -> None:
    """Make one data set of list files, prepare its cases for training once, and report what they hold.

    Writes dataset.json to dataset_dir (only where --lists are given), prepared cases to cache_dir, and a report to
    output_dir: preparation.csv (voxels and mL of every class and case) and preparation.json (classes of each data set,
    failed and suspicious cases and why). Call it again after an
    interruption: what is prepared is not prepared again. Ends with 1 where a case could not be prepared.

    Example: python scripts/prepare_data.py data/all --lists PAOT --lists_dir lists --data_root /data --num_workers 8

    Args:
        dataset_dir: Folder with a dataset.json, or where the one of the lists is to be written.
        lists: Names of lists, several as A,B: A_train.txt, A_val.txt, A_test.txt, A_test2.txt, those that exist.
        lists_dir: Folder of the lists.
        data_root: Folder that the paths in the lists start from.
        catalogue: JSON file of further data sets that lists may name.
        cache_dir: Folder of the prepared cases; the folder "cache" in dataset_dir when left out.
        output_dir: Folder of preparation.json and .csv; dataset_dir when left out.
        config_file: Training config whose preprocessing is used, or several.
        num_workers: Processes that prepare cases; each may need some GB for a large one.
        overrides: Knobs of the training that change the preprocessing, as given to it: --spacing "[2,2,2]".
    """
    if lists:
        names = lists.split(",") if isinstance(lists, str) else list(lists)
        write_description(
            read_lists(
                names,
                lists_dir=lists_dir,
                data_root=data_root,
                catalogue=load_catalogue(catalogue),
                class_set=load_class_set(overrides.get("class_set_file")),
            ),
            dataset_dir,
        )
    folders = {"cache_dir": cache_dir or str(Path(dataset_dir) / "cache"), "output_dir": output_dir or dataset_dir}
    try:
        report = prepare_data_set(
            dataset_dir, **folders, config_file=config_file, overrides=overrides, num_workers=num_workers
        )
    except KeyboardInterrupt:
        print(
            f"Interrupted. What is prepared stays in {folders['cache_dir']}: call it again to go on.", file=sys.stderr
        )
        raise SystemExit(130) from None
    failed, suspicious = len(report["failed"]), len(report["suspicious"])
    print(
        f"{report['cases'] - failed} of {report['cases']} cases are prepared, {report['new']} of them now; "
        f"{suspicious} suspicious, {failed} failed: {Path(folders['output_dir']) / 'preparation.json'}"
    )
    knobs = {"dataset_dir": dataset_dir, "cache_dir": folders["cache_dir"], **overrides}
    print("Train on them with", *(f"--{name} {shlex.quote(str(value))}" for name, value in knobs.items()))
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    fire.Fire(prepare_data)
