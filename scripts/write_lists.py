"""Write the list files of data sets that have none: training, validation, test, and images without labels."""

from fire.decorators import SetParseFn
from rich.console import Console
from rich.table import Column, Table

from custom.datasets.dataset_json import SPLITS, UNLABELLED
from custom.datasets.splitting import split_cases, write_lists
from custom.tools.command_line import run_script


def main(name: str, *patterns: str, data_root: str = ".", shares: str = "8,1,1") -> None:
    """Write the list files of data sets that have none: training, validation, test, and images without labels.

    Each data set is split by itself, always in the same way. Existing lists are not replaced.

    Example: python scripts/write_lists.py lists/ours --data_root /data
    01_BTCV/img/img{}.nii.gz 01_BTCV/label/label{}.nii.gz
    10_Decathlon/Task09_Spleen/imagesTr/{}.nii.gz 10_Decathlon/Task09_Spleen/labelsTr/{}.nii.gz

    Args:
        name: Folder and name of the lists: lists/ours gives lists/ours_train.txt, ...
        patterns: For each data set those of its images and of its labels, below the data root; {} stands for what the
            names of an image and its label have in common.
        data_root: Folder that the patterns, and the paths in the lists, start from.
        shares: Proportions of training, validation and test.
    """
    if not patterns or len(patterns) % 2:
        raise ValueError(f"Patterns come in pairs, images and labels of each data set; there are {len(patterns)}.")
    pairs = list(zip(patterns[::2], patterns[1::2], strict=True))
    try:
        proportions = [float(part) for part in shares.split(",")]
    except ValueError:
        proportions = []
    splits_of = {pair: split_cases(*pair, data_root=data_root, shares=proportions) for pair in pairs}
    columns = (*SPLITS, UNLABELLED)
    files = write_lists({split: [row for rows in splits_of.values() for row in rows[split]] for split in columns}, name)
    counts = (Column(split, justify="right", overflow="fold") for split in columns)
    table = Table(Column("images", overflow="fold"), *counts)
    for pair, splits in splits_of.items():
        table.add_row(pair[0], *(str(len(splits[split])) for split in columns))
    Console().print(table)
    print("Written:", *files)


if __name__ == "__main__":
    run_script(SetParseFn(str)(main))  # Fire would read the name 10_03 as a number
