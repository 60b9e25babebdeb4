"""One dataset.json from the list files of several data sets, and all their errors at once."""

import json
from pathlib import Path
from typing import Any

import pytest

from custom.anatomy.class_set import ClassSet
from custom.datasets.catalogue import load_catalogue
from custom.datasets.dataset_json import Cases, read_data_list
from custom.datasets.labels import value_table
from custom.datasets.list_files import read_lists, write_description

BTCV, KITS, LIVER = "01_Multi-Atlas_Labeling", "05_KiTS", "10_Decathlon/Task03_Liver"


class Disk:
    """A data root with lists; its files are empty: nothing opens them."""

    def __init__(self, folder: Path, class_set: ClassSet) -> None:
        self.lists, self.root = folder / "lists", folder / "data"
        self.class_set = class_set
        self.lists.mkdir()
        self.root.mkdir()

    def line(self, folder: str, name: str, *, label: bool = True) -> str:
        """Create the files of a case and return its line."""
        paths = [f"{folder}/{kind}/{name}.nii.gz" for kind in ("img", "label")[: 1 + label]]
        for path in paths:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).touch()
        return "\t".join(paths)

    def write(self, name: str, *lines: str) -> None:
        (self.lists / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def read(self, *names: str, **changes: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {"lists_dir": self.lists, "data_root": self.root, "class_set": self.class_set}
        return read_lists(names, **{"catalogue": load_catalogue(), **settings, **changes})

    def errors(self, *names: str, **changes: Any) -> list[str]:
        with pytest.raises(ValueError) as caught:
            self.read(*names, **changes)
        *errors, count = str(caught.value).splitlines()
        assert count == f"{len(errors)} error{'s' if len(errors) > 1 else ''} in the lists of {', '.join(names)}."
        return [error.replace(f"{self.lists}/", "") for error in errors]


@pytest.fixture
def disk(tmp_path: Path, class_set: ClassSet) -> Disk:
    return Disk(tmp_path, class_set)


def test_lists_of_several_names_become_one_data_set(disk: Disk, tmp_path: Path, class_set: ClassSet) -> None:
    """Every case has its data set and labels, also one that is labelled unlike the rest of its data set."""
    disk.write("a_train", disk.line(BTCV, "img0002"), disk.line(BTCV, "img0061"), disk.line(LIVER, "liver_1"))
    disk.write("a_val", disk.line(BTCV, "img0003"))
    disk.write("b_train", disk.line(KITS, "case_1"))
    disk.write("b_test", disk.line(KITS, "case_2"))
    disk.write("b_test2", disk.line("06_3D-IRCADb", "1", label=False))
    file = write_description(disk.read("a", "b"), tmp_path / "prepared")
    assert json.loads(file.read_text())["name"] == "a+b"
    training = read_data_list(file.parent, "training", class_set)
    assert [case["dataset"] for case in training] == ["01", "01", "10_03", "05"]
    assert training[0]["image"] == str(disk.root / BTCV / "img" / "img0002.nii.gz")
    assert training[0]["label"] == str(disk.root / BTCV / "label" / "img0002.nii.gz")
    assert training[3]["sides"] == {"kidneys": {1: (1, 4), 2: (2, 5), 3: (3, 6)}}
    assert [int((case["value_table"][0] == 0).sum()) for case in training] == [14, 8, 2, 4]
    assert len(Cases(file.parent, class_set).labelled_classes) == 17
    for split, key in (("validation", "01"), ("test", "05")):
        assert [case["dataset"] for case in read_data_list(file.parent, split, class_set)] == [key]
    assert read_data_list(file.parent, "unlabelled", class_set) == [
        {"image": str(disk.root / "06_3D-IRCADb" / "img" / "1.nii.gz"), "dataset": "06"}
    ]


def test_cases_that_agree_share_their_labels(disk: Disk, tmp_path: Path, class_set: ClassSet) -> None:
    disk.write("a_train", disk.line(LIVER, "1"), disk.line("04_LiTS", "2"))
    disk.write("a_test", disk.line(LIVER, "3"))
    content = disk.read("a")
    assert content["labels"] == {"1": "liver", "2": ["liver tumor", "liver"]}
    assert content["training"][0].keys() == {"image", "label", "dataset"}
    (case,) = read_data_list(write_description(content, tmp_path).parent, "test", class_set)
    assert (case["value_table"] == value_table(content["labels"], class_set, source="")).all()


def test_marks_and_line_ends_of_other_systems_are_understood(disk: Disk) -> None:
    text = f"\ufeff{disk.line(LIVER, '1')}\r\n./{disk.line(LIVER, 'b ä')}\r\n\r\n"
    (disk.lists / "a_train.txt").write_bytes(text.encode())
    assert len(disk.read("a")["training"]) == 2


def test_all_errors_of_all_lists_are_reported_together(disk: Disk) -> None:
    good, other, third = (disk.line(LIVER, name) for name in ("1", "2", "3"))
    image, label = good.split("\t")
    stray = disk.line("99_Unknown", "1")
    disk.write(
        "a_train",
        good,
        "",
        other.split("\t")[0],
        f"{LIVER}/img/none.nii.gz\t{LIVER}/label/none.nii.gz",
        stray,
        f"/{third}",
        f"../data/{third}",
        good,
        disk.line("06_3D-IRCADb", "2"),
        f"{image}\t{image}",
        other.replace("\t", " "),
        f"{third}\t1",
        f"{LIVER}/notes.txt\t{label}",
        f"{third.split()[0]}\t{disk.line(KITS, '1').split()[0]}",
        third.replace("img/3", "img/\u200b3"),
    )
    disk.write("b_val", good, other)
    disk.write("b_test2", good)
    (disk.lists / "c_test.txt").write_bytes(other.encode() + b"\n\xff\xfe")
    disk.write("d_train")
    errors = disk.errors("a", "b", "c", "d", "e")
    expected = [
        ("a_train.txt:2", "a line must be an image, a tab and its label, not ''"),
        ("a_train.txt:3", "a line must be an image, a tab and its label"),
        ("a_train.txt:4", "img/none.nii.gz does not exist"),
        ("a_train.txt:4", "label/none.nii.gz does not exist"),
        ("a_train.txt:5", "no data set of the catalogue has the folder of 99_Unknown/img/1.nii.gz"),
        ("a_train.txt:6", "must be relative to the data root"),
        ("a_train.txt:7", "must be relative to the data root"),
        ("a_train.txt:8", "img/1.nii.gz is in training already (a_train.txt:1)"),
        ("a_train.txt:8", "label/1.nii.gz is in training already (a_train.txt:1)"),
        ("a_train.txt:9", "data set 06 is for evaluation only"),
        ("a_train.txt:10", "a line must be an image, a tab and its label"),
        ("a_train.txt:11", "a line must be an image, a tab and its label"),
        ("a_train.txt:12", "a line must be an image, a tab and its label"),
        ("a_train.txt:13", "must be of a NIfTI file (.nii or .nii.gz), not 10_Decathlon/Task03_Liver/notes.txt"),
        ("a_train.txt:14", "an image of data set 10_03 must have a label of that data set, not 05_KiTS/img/1.nii.gz"),
        ("a_train.txt:15", r"not have invisible characters: '10_Decathlon/Task03_Liver/img/\u200b3.nii.gz'"),
        ("b_val.txt:1", "img/1.nii.gz is in training already (a_train.txt:1)"),
        ("b_val.txt:1", "label/1.nii.gz is in training already (a_train.txt:1)"),
        ("b_test2.txt:1", "a line must be one image, not"),
        ("c_test.txt:2", "must be text in UTF-8"),
        ("d_train.txt:1", "a line must be an image, a tab and its label, not ''"),
        (str(disk.lists), "must hold one of e_train.txt, e_val.txt, e_test.txt, e_test2.txt"),
    ]
    for error, (location, message) in zip(errors, expected, strict=True):
        assert error.startswith(f"{location}: ") and message in error


def test_one_case_under_two_paths_is_one_case(disk: Disk) -> None:
    disk.write("a_train", disk.line(LIVER, "1"))
    (disk.root / "04_LiTS").symlink_to(disk.root / LIVER)
    disk.write("a_val", "04_LiTS/img/1.nii.gz\t04_LiTS/label/1.nii.gz")
    assert [error.partition(":")[0] for error in disk.errors("a")] == ["a_val.txt"] * 2


def test_errors_of_a_catalogue_are_reported_with_those_of_the_lists(disk: Disk, tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    rows = {"20": ("20_Ours", "spline"), "21": ("21_*", "liver"), "22": ("21_Twice", "liver")}
    mine.write_text(
        json.dumps({key: {"name": key, "folder": f, "labels": {"1": label}} for key, (f, label) in rows.items()})
    )
    disk.write("a_train", disk.line("20_Ours", "1"), disk.line("20_Ours", "2"), disk.line("21_Twice", "3"))
    errors = disk.errors("a", catalogue=load_catalogue(mine))
    assert len(errors) == 2
    assert "data set '20': label value 1" in errors[0] and "Nearest: spleen" in errors[0]
    assert errors[1].startswith("a_train.txt:3: data sets 21 and 22 have the folder")


def test_folders_that_do_not_exist_are_reported_first(disk: Disk) -> None:
    for setting in ("lists_dir", "data_root"):
        with pytest.raises(FileNotFoundError, match=f"--{setting} must be a folder that exists"):
            disk.read("a", **{setting: disk.root / "absent"})
