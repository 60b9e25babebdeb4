"""Make a data set from list files, prepare its cases for training once, and report what they contain."""

import shlex
import sys
from pathlib import Path
from typing import Any

from fire.decorators import SetParseFns

from custom.anatomy.loading import load_class_set
from custom.datasets.catalogue import load_catalogue
from custom.datasets.list_files import made_from_lists, read_lists, write_description
from custom.tools.command_line import run_script
from custom.tools.preparation.prepare import prepare_data_set

CONFIG = Path(__file__).resolve().parents[1] / "bundles" / "film_swinunetr" / "configs" / "train.json"


def prepare_data(
    dataset_dir: str,
    *,
    lists: str = "",
    lists_dir: str = "dataset/dataset_list",
    data_root: str = ".",
    catalogue: str | None = None,
    cache_dir: str | None = None,
    output_dir: str | None = None,
    config_file: str | list[str] = str(CONFIG),
    num_workers: int = 0,
    **overrides: Any,
) -> None:
    """Make a data set from list files, prepare its cases for training once, and report what they contain.

    Writes dataset.json to dataset_dir (only with --lists), prepared cases to cache_dir, and a report to output_dir:
    preparation.csv (voxels and mL of every class and case) and preparation.json (classes of each data set, failed and
    suspicious cases with reasons). Repeat an interrupted call to continue it. Ends with 1 if a case failed.

    Example: python scripts/prepare_data.py data/all --lists PAOT --lists_dir lists --data_root /data --num_workers 8

    Args:
        dataset_dir: Folder with a dataset.json, or where that of the lists is to be written.
        lists: Names of lists, several as A,B; of A_train.txt, A_val.txt, A_test.txt and A_test2.txt those that exist.
        data_root: Folder that the paths in the lists start from.
        catalogue: JSON file of further data sets that lists may name.
        cache_dir: Folder of the prepared cases; the folder "cache" in dataset_dir when left out.
        output_dir: Folder of preparation.json and .csv; dataset_dir when left out.
        config_file: Training config whose preprocessing is used, or several.
        num_workers: Processes that prepare cases; each may need some GB for a large one.
        overrides: Settings of the training that change the preprocessing, such as --spacing "[2,2,2]".
    """
    folder = Path(dataset_dir).expanduser()
    if lists:
        if (folder / "dataset.json").exists() and not made_from_lists(folder):
            raise FileExistsError(
                f"{folder / 'dataset.json'} was not made from lists and is not replaced: choose another dataset_dir."
            )
        content = read_lists(
            [name.strip() for name in lists.split(",")],
            lists_dir=lists_dir,
            data_root=data_root,
            catalogue=load_catalogue(catalogue and Path(catalogue).expanduser()),
            class_set=load_class_set(overrides.get("class_set_file")),
        )
        write_description(content, folder)
    folders = {"cache_dir": cache_dir or str(folder / "cache"), "output_dir": output_dir or str(folder)}
    folders = {name: str(Path(path).expanduser()) for name, path in folders.items()}
    try:
        report = prepare_data_set(
            folder, **folders, config_file=config_file, overrides=overrides, num_workers=num_workers
        )
    except KeyboardInterrupt:
        print(f"Interrupted. What is prepared stays in {folders['cache_dir']}: repeat the call.", file=sys.stderr)
        raise SystemExit(130) from None
    failed, suspicious = len(report["failed"]), len(report["suspicious"])
    print(
        f"{report['cases'] - failed} of {report['cases']} cases are prepared, {report['new']} of them now; "
        f"{suspicious} suspicious, {failed} failed: {Path(folders['output_dir']) / 'preparation.json'}"
    )
    if failed:
        print("A training would end at a failed case. Repair or remove it, and repeat the call.")
        raise SystemExit(1)
    settings = {"dataset_dir": str(folder), "cache_dir": folders["cache_dir"], **overrides}
    print("Train on them with", *(f"--{name} {shlex.quote(str(value))}" for name, value in settings.items()))


if __name__ == "__main__":
    # Fire would read 10_03 as a number, and A,B as two texts.
    names = ("dataset_dir", "lists", "lists_dir", "data_root", "catalogue", "cache_dir", "output_dir")
    run_script(SetParseFns(**dict.fromkeys(names, str))(prepare_data))
