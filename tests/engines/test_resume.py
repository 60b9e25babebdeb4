"""What is answered is known by content, whatever it is called and whenever it was written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.transforms import Compose, Lambda, ScaleIntensity

from custom.anatomy.loading import load_class_set
from custom.engines.report import RunReport
from custom.engines.resume import pending_requests, settings_digest
from custom.inferers.segmentation import SegmentingInferer
from custom.utils.files import content_digest

CPU = torch.device("cpu")


@pytest.fixture
def item(tmp_path: Path) -> dict[str, Any]:
    image = tmp_path / "ct.nii.gz"
    image.write_bytes(b"voxels")
    return {"image": str(image), "prompt": ("liver", "spleen"), "output_name": "ct"}


def answer(item: dict[str, Any], output_dir: Path, recipe: str) -> Path:
    """A folder as the writer leaves it."""
    folder = output_dir / str(item["output_name"])
    folder.mkdir(parents=True)
    summary = {
        "settings_digest": recipe,
        "prompt": {"asked": "liver, spleen"},
        "image_sha256": content_digest(item["image"]),
        "files": ["liver.nii.gz", "summary.json"],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "liver.nii.gz").write_text("mask")
    return folder


def left(item: dict[str, Any], output_dir: Path, **options: Any) -> int:
    return len(pending_requests([item], output_dir=output_dir, **({"digest": "r"} | options)))


def test_a_whole_answer_to_the_same_question_is_not_asked_for_again(item: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert left(item, out) == 1
    folder = answer(item, out, "r")
    assert left(item, out) == 0
    assert left(item, out, overwrite=True) == 1
    (folder / "liver.nii.gz").unlink()
    assert left(item, out) == 1
    (folder / "summary.json").write_text("{ half")
    assert left(item, out) == 1


def test_an_answer_to_another_question_is_replaced_only_when_asked(item: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer(item, out, "r")
    with pytest.raises(
        ValueError, match=r"not be lost.*ct \(by other weights, settings or another version\).*overwrite"
    ):
        left(item, out, digest="other weights")
    with pytest.raises(ValueError, match=r"ct \(to 'liver, spleen'\)"):
        left(item | {"prompt": "liver"}, out)
    assert left(item | {"prompt": "liver"}, out, overwrite=True) == 1
    Path(item["image"]).write_bytes(b"other voxels of that name")
    with pytest.raises(ValueError, match=r"ct \(of other voxels\)"):
        left(item, out)


def test_voxels_beside_their_header_are_asked_again(item: dict[str, Any], tmp_path: Path) -> None:
    header = tmp_path / "ct.nhdr"
    header.write_text("data file: ct.raw")
    answer(item | {"image": str(header)}, tmp_path / "out", "r")
    assert left(item | {"image": str(header)}, tmp_path / "out") == 1


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

    def recipe(**settings: Any) -> str:
        return settings_digest(weights=weights, class_set=class_set, device=CPU, settings=settings)

    scaling, random = Compose([ScaleIntensity(maxv=2)]), Compose([Lambda(lambda volume: volume)])
    inferer = SegmentingInferer((64, 64, 64), skip_air=False)
    told = {"prompt_text": "raw", "preprocessing": scaling, "inferer": inferer}
    first = recipe(**told)
    same = {"preprocessing": Compose([ScaleIntensity(maxv=2)]), "inferer": SegmentingInferer((64,) * 3, skip_air=False)}
    assert recipe(**told | same) == first
    others = [
        *(
            {"prompt_text": "canonical"},
            {"preprocessing": Compose([ScaleIntensity(maxv=3)])},
            {"preprocessing": random},
        ),
        *({"inferer": SegmentingInferer((64, 64, 64))}, {"inferer": SegmentingInferer((64, 64, 96), skip_air=False)}),
    ]
    found = {recipe(**told | other) for other in [*others, {"preprocessing": random}]}
    weights.write_bytes(b"22")
    assert len(found | {first, recipe(**told)}) == 8


def test_a_report_tells_what_became_of_each_question(item: dict[str, Any], tmp_path: Path) -> None:
    requests = [item, item | {"output_name": "b"}, item | {"output_name": "c"}]
    asked = {
        "b": {"status": "done", "seconds": 1.5, "reason": None},
        "c": {"status": "failed", "seconds": 0.1, "reason": "is damaged"},
    }
    RunReport(requests, tmp_path / "out").write(asked)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["counts"] == {"done": 1, "skipped": 1, "failed": 1, "pending": 0}
    assert [(row["output_name"], row["status"]) for row in report["requests"]] == [
        ("b", "done"), ("c", "failed"), ("ct", "skipped"),
    ]  # fmt: skip
    assert report["requests"][1]["reason"] == "is damaged"


def test_one_question_needs_no_report(item: dict[str, Any], tmp_path: Path) -> None:
    RunReport([item], tmp_path).write({"ct": {"status": "done", "seconds": 1.0, "reason": None}})
    assert not (tmp_path / "report.json").exists()
