"""What is answered is known by content, whatever it is called and whenever it was written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from custom.anatomy import load_class_set
from custom.files import content_digest
from custom.outputs import RunReport, describe_recipe, unanswered

CPU = torch.device("cpu")


@pytest.fixture
def question(tmp_path: Path) -> dict[str, Any]:
    image = tmp_path / "ct.nii.gz"
    image.write_bytes(b"voxels")
    return {"image": str(image), "prompt": ("liver", "spleen"), "answer": "ct"}


def answer(question: dict[str, Any], output_dir: Path, recipe: str) -> Path:
    """A folder as the writer leaves it."""
    folder = output_dir / str(question["answer"])
    folder.mkdir(parents=True)
    summary = {
        "recipe": recipe,
        "prompt": {"asked": "liver, spleen"},
        "image_sha256": content_digest(question["image"]),
        "files": ["liver.nii.gz", "summary.json"],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "liver.nii.gz").write_text("mask")
    return folder


def left(question: dict[str, Any], output_dir: Path, **options: Any) -> int:
    return len(unanswered([question], output_dir=output_dir, **({"recipe": "r"} | options)))


def test_a_whole_answer_to_the_same_question_is_not_asked_for_again(question: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert left(question, out) == 1
    folder = answer(question, out, "r")
    assert left(question, out) == 0
    assert left(question, out, overwrite=True) == 1
    assert left(question, out, recipe="other weights") == 1
    assert left(question | {"prompt": "liver"}, out) == 1
    Path(question["image"]).write_bytes(b"other voxels of that name")
    assert left(question, out) == 1
    Path(question["image"]).write_bytes(b"voxels")
    assert left(question, out) == 0
    (folder / "liver.nii.gz").unlink()
    assert left(question, out) == 1
    (folder / "summary.json").write_text("{ half")
    assert left(question, out) == 1


def test_a_folder_is_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"one")
    first = content_digest(folder)
    (folder / "2.dcm").write_bytes(b"two")
    second = content_digest(folder)
    (folder / "2.dcm").rename(folder / "3.dcm")
    assert len({first, second, content_digest(folder)}) == 3


def test_a_recipe_holds_whatever_decides_an_answer(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    class_set = load_class_set()
    recipe = describe_recipe(weights=weights, class_set=class_set, device=CPU, settings={"overlap": 0.25})
    assert recipe == describe_recipe(weights=weights, class_set=class_set, device=CPU, settings={"overlap": 0.25})
    assert recipe != describe_recipe(weights=weights, class_set=class_set, device=CPU, settings={"overlap": 0.5})
    weights.write_bytes(b"22")
    assert recipe != describe_recipe(weights=weights, class_set=class_set, device=CPU, settings={"overlap": 0.25})


def test_a_report_tells_what_became_of_each_question(question: dict[str, Any], tmp_path: Path) -> None:
    questions = [question, question | {"answer": "b"}, question | {"answer": "c"}]
    asked = {
        "b": {"status": "answered", "seconds": 1.5, "reason": None},
        "c": {"status": "not segmented", "seconds": 0.1, "reason": "is damaged"},
    }
    RunReport(questions, tmp_path / "out").write(asked)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["counts"] == {"answered": 1, "answered before": 1, "not segmented": 1, "not asked": 0}
    assert [(row["answer"], row["status"]) for row in report["questions"]] == [
        ("b", "answered"), ("c", "not segmented"), ("ct", "answered before"),
    ]  # fmt: skip
    assert report["questions"][1]["reason"] == "is damaged"


def test_one_question_needs_no_report(question: dict[str, Any], tmp_path: Path) -> None:
    RunReport([question], tmp_path).write({"ct": {"status": "answered", "seconds": 1.0, "reason": None}})
    assert not (tmp_path / "report.json").exists()
