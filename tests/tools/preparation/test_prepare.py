"""`scripts/prepare_data.py`: a training finds the prepared cases, and failures are reported."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from custom.tools.phantoms.scene import make_phantom
from custom.tools.preparation.prepare import prepare_data_set
from scripts.prepare_data import prepare_data
from tests.helpers import ROOT
from tests.helpers.warm_python import Process, run_python

CONFIG = ROOT / "bundles" / "film_swinunetr" / "configs" / "train.json"
SPACING = [8, 8, 8]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cases of two data sets, one of which has kidneys without sides, and one cut short."""
    labels = {"1": "spleen", "6": "liver", "18": "colon", "27": ["liver tumor", "liver"]}
    kidneys = {"2": "kidneys", "26": ["kidney tumor", "kidneys"]}
    cases: list[dict[str, Any]] = []
    for seed in range(3):
        phantom = make_phantom(seed, spacing=(8.0, 8.0, 8.0))
        label = np.where(np.isin(phantom.label, [1, 6, 27]), phantom.label, 0)
        if seed == 2:
            label = np.where(np.isin(phantom.label, [2, 3]), np.uint8(2), np.uint8(0))
        case = {"image": f"image_{seed}.nii.gz", "label": f"label_{seed}.nii.gz", "dataset": "04"}
        for name, values in ((case["image"], phantom.image), (case["label"], label)):
            nib.save(nib.Nifti1Image(values, phantom.affine), tmp_path / name)
        cases.append(case)
    cases[2] |= {"dataset": "05", "labels": kidneys}
    content = (tmp_path / "label_1.nii.gz").read_bytes()
    (tmp_path / "label_cut.nii.gz").write_bytes(content[: len(content) // 2])
    cut = {**cases[1], "label": "label_cut.nii.gz"}
    description = {"labels": labels, "training": [cases[0], cut, cases[2]], "validation": [cases[1]]}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    return tmp_path


def prepare(folder: Path, **settings: Any) -> dict[str, Any]:
    return prepare_data_set(
        folder,
        cache_dir=folder / "cache",
        output_dir=folder,
        config_file=CONFIG,
        overrides={"spacing": SPACING} | settings.pop("overrides", {}),
        **settings,
    )


def entries(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()}


def test_one_bad_case_does_not_stop_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = prepare(folder, num_workers=2)
    assert (report["cases"], report["new"]) == (4, 3)
    (failed,) = report["failed"]
    assert failed["label"].endswith("label_cut.nii.gz")
    assert "is damaged or cut short" in failed["reasons"][0]
    assert failed["reasons"][0] in capsys.readouterr().out
    assert report["datasets"]["04"]["never_seen"] == ["colon"]
    kidneys = report["datasets"]["05"]["classes"]
    assert kidneys["right kidney"]["cases"] == kidneys["left kidney"]["cases"] == 1
    before = entries(folder)
    assert len(before) == 3
    assert prepare(folder)["new"] == 0  # nothing is repeated
    assert entries(folder) == before


def test_training_and_validation_find_what_is_prepared(folder: Path) -> None:
    prepare(folder)
    before = entries(folder)
    parser = ConfigParser()
    parser.read_config(CONFIG)
    settings = {"dataset_dir": str(folder), "cache_dir": str(folder / "cache"), "spacing": [8.0, 8.0, 8.0]}
    others = {
        "roi_size": [32, 32, 32],
        "train::prompt_transforms": [],
        "validate::preprocessing::transforms": ["@padding"],
    }
    parser.update(pairs=settings | others)
    training, validation = (parser.get_parsed_content(f"{part}::dataset") for part in ("train", "validate"))
    for item in (training[0], training[2], [validation[0]]):
        assert {"image", "label", "value_table"} <= item[0].keys()
    assert entries(folder) == before
    prepare(folder, overrides={"spacing": [9, 9, 9]})
    assert len(entries(folder)) == 6


def test_an_interrupted_command_can_be_continued(folder: Path) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    content["training"] = [content["training"][0]]
    content["test"] = [{**content["training"][0], "image": f"copy_{number}.nii.gz"} for number in range(200)]
    for case in content["test"]:
        os.link(folder / content["training"][0]["image"], folder / case["image"])
    (folder / "dataset.json").write_text(json.dumps(content))
    with Process("scripts/prepare_data.py", folder, "--spacing", SPACING, "--num_workers", 2) as process:
        deadline = time.monotonic() + 200
        while not list(folder.glob("cache/*.pt")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "Interrupted. What is prepared stays in" in errors
    assert "Traceback" not in errors
    assert not (folder / "preparation.json").exists()
    done = len(entries(folder))
    report = prepare(folder)
    assert 0 < report["new"] < report["cases"] == 202
    assert len(entries(folder)) == 202 >= done + report["new"]
    assert all(name.endswith(".pt") for name in entries(folder))


def test_lists_become_a_prepared_data_set(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / "lists").mkdir()
    (root / "04_LiTS").mkdir()
    lines = []
    for seed in range(2):
        image, label = (nib.load(folder / f"{kind}_{seed}.nii.gz") for kind in ("image", "label"))
        values = np.asarray(label.dataobj)
        as_in_lits = np.select([values == 6, values == 27], [1, 2]).astype(np.uint8)
        nib.save(image, root / f"04_LiTS/volume-{seed}.nii.gz")
        nib.save(nib.Nifti1Image(as_in_lits, label.affine), root / f"04_LiTS/segmentation-{seed}.nii.gz")
        lines.append(f"04_LiTS/volume-{seed}.nii.gz\t04_LiTS/segmentation-{seed}.nii.gz")
    (root / "lists" / "small_train.txt").write_text("\n".join(lines) + "\n")
    command = ["scripts/prepare_data.py", root / "made", "--spacing", SPACING]
    command += ["--lists", "10_03, small", "--lists_dir", root / "lists", "--data_root", root]
    (root / "10_Decathlon" / "Task03_Liver").mkdir(parents=True)
    for path in (root / "04_LiTS").iterdir():
        (root / "10_Decathlon" / "Task03_Liver" / path.name).symlink_to(path)
    (root / "lists" / "10_03_test2.txt").write_text("10_Decathlon/Task03_Liver/volume-0.nii.gz\n")
    wrong = run_python(*command)
    assert "a file may be listed once" in wrong.stderr  # the names of both lists were read as texts
    (root / "lists" / "10_03_test2.txt").unlink()
    nib.save(nib.load(folder / "image_2.nii.gz"), root / "10_Decathlon" / "Task03_Liver" / "liver_2.nii.gz")
    (root / "lists" / "10_03_test2.txt").write_text("10_Decathlon/Task03_Liver/liver_2.nii.gz\n")
    done = run_python(*command)
    assert not done.returncode, done.stderr
    assert f"Train on them with --dataset_dir {root / 'made'} --cache_dir" in done.stdout
    report = json.loads((root / "made" / "preparation.json").read_text())
    assert report["failed"] == []
    assert report["datasets"]["04"]["classes"]["liver"]["cases"] == 2
    assert len(entries(root / "made")) == 2
    arguments: dict[str, Any] = {"lists": "small", "lists_dir": str(root / "lists"), "data_root": str(root)}
    before = (folder / "dataset.json").read_text()
    with pytest.raises(FileExistsError, match="was not made from lists and is not replaced"):
        prepare_data(str(folder), **arguments)
    assert (folder / "dataset.json").read_text() == before


def test_wrong_settings_and_failed_cases_are_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"--spacin is no setting of .*; near it: spacing"):
        prepare(folder, overrides={"spacin": SPACING})
    with pytest.raises(SystemExit) as ended:
        prepare_data(str(folder), spacing=SPACING)  # with a case that is cut short
    assert ended.value.code == 1
    assert "A training would end at a failed case" in (printed := capsys.readouterr().out)
    assert "Train on them" not in printed
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({"labels": content["labels"], "train": content["training"]}))
    with pytest.raises(ValueError, match="must list labelled cases under one of training, validation, test"):
        prepare(folder)
