"""List files from folders of images and labels."""

from pathlib import Path

import pytest

from custom.anatomy.loading import load_class_set
from custom.datasets.catalogue import load_catalogue
from custom.datasets.list_files import read_lists
from custom.datasets.splitting import split_cases, write_lists
from tests.helpers.warm_python import run_python

SPLEEN = ("10_Decathlon/Task09_Spleen/imagesTr/{}.nii.gz", "10_Decathlon/Task09_Spleen/labelsTr/{}.nii.gz")
KITS = ("05_KiTS/img/case_{}/imaging.nii.gz", "05_KiTS/img/case_{}/segmentation.nii.gz")


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data [1]"  # brackets mean nothing to us
    touch(root, *(part.replace("{}", f"spleen_{i}") for part in SPLEEN for i in range(20)))
    touch(root, *(part.replace("{}", f"{i:05d}") for part in KITS for i in range(3)))
    touch(root, KITS[0].replace("{}", "00210"), SPLEEN[0].replace("{}", "._spleen_1"))
    return root


def test_every_case_is_in_one_split_and_always_the_same(root: Path) -> None:
    splits = split_cases(*SPLEEN, data_root=root)
    assert [len(splits[split]) for split in ("training", "validation", "test", "unlabelled")] == [16, 2, 2, 0]
    pairs = [row for rows in splits.values() for row in rows]
    assert {Path(image).name for image, _ in pairs} == {f"spleen_{i}.nii.gz" for i in range(20)}
    assert all(Path(image).name == Path(label).name for image, label in pairs)
    assert split_cases(*SPLEEN, data_root=root) == splits
    assert len(split_cases(*SPLEEN, data_root=root, shares=(1, 1, 0))["validation"]) == 10
    assert split_cases(f"./{SPLEEN[0]}", SPLEEN[1], data_root=root) == splits
    uneven = split_cases(*KITS, data_root=root, shares=(1, 8, 1))
    assert [len(uneven[split]) for split in ("training", "validation", "test")] == [1, 1, 1]
    most = split_cases(*SPLEEN, data_root=root, shares=(1, 1000, 1))
    assert [len(most[split]) for split in ("training", "validation", "test")] == [1, 18, 1]
    kits = split_cases(*KITS, data_root=root)
    assert [len(kits[split]) for split in ("training", "validation", "test")] == [1, 1, 1]
    assert kits["unlabelled"] == [("05_KiTS/img/case_00210/imaging.nii.gz",)]


def test_images_and_labels_may_share_a_folder(tmp_path: Path) -> None:
    names = [f"flat/c{i}{end}.nii.gz" for i in range(4) for end in ("", "_seg")]
    touch(tmp_path, *names, "flat/c9.nii.gz")
    splits = split_cases("flat/{}.nii.gz", "flat/{}_seg.nii.gz", data_root=tmp_path)
    assert sorted(name for rows in splits.values() for row in rows for name in row) == sorted(
        [*names, "flat/c9.nii.gz"]
    )
    assert splits["unlabelled"] == [("flat/c9.nii.gz",)]


def test_the_command_writes_lists_that_are_read(root: Path) -> None:
    command = ["scripts/write_lists.py", root / "lists" / "ours", *SPLEEN, *KITS]
    done = run_python(*command, "--data_root", root)
    assert not done.returncode, done.stderr
    assert "ours_test2.txt" in done.stdout.replace("\n", "")
    content = read_lists(
        ["ours"], lists_dir=root / "lists", data_root=root, catalogue=load_catalogue(), class_set=load_class_set()
    )
    assert [len(content[split]) for split in ("training", "validation", "test", "unlabelled")] == [17, 3, 3, 1]
    assert {case["dataset"] for case in content["training"]} == {"05", "10_09"}
    other = (root / "lists" / "other", *SPLEEN, "--data_root", root, "--share", "5,5,0")
    unknown = run_python("scripts/write_lists.py", *other)
    assert unknown.returncode == 2 and "Could not consume arg: --share" in unknown.stderr
    assert not list((root / "lists").glob("other*"))  # nothing is done before all is understood
    short = run_python(*command, "--shares", "0.8")
    assert "--shares must be three numbers" in short.stderr
    again = run_python(*command, "--data_root", root)
    assert again.returncode and "exists and is not replaced" in again.stderr


def test_patterns_and_shares_without_lists_are_refused(root: Path, tmp_path: Path) -> None:
    for image in ("01_BTCV/img/{}.nii.gz", "imagesTr/a.nii.gz", "../{}.nii.gz", "{}/{}.nii.gz"):
        with pytest.raises(ValueError, match=r"No file below .* matches|A pattern must be a path relative"):
            split_cases(image, SPLEEN[1], data_root=root)
    with pytest.raises(ValueError, match="2 cases, too few for 3 splits"):
        (root / KITS[1].replace("{}", "00000")).unlink()
        split_cases(*KITS, data_root=root)
    for shares in ((8, 1), (0, 1, 1), (8, -1, 1)):
        with pytest.raises(ValueError, match="--shares must be three numbers"):
            split_cases(*KITS, data_root=root, shares=shares)
    touch(root, SPLEEN[1].replace("{}", "spleen_99"))
    with pytest.raises(ValueError, match=r"spleen_99\.nii\.gz has no .*imagesTr/spleen_99"):
        split_cases(*SPLEEN, data_root=root)
    (tmp_path / "x_val.txt").touch()
    with pytest.raises(FileExistsError, match="x_val"):
        write_lists({"training": [("a", "b")]}, tmp_path / "x")
    assert not (tmp_path / "x_train.txt").exists()
