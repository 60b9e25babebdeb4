"""What is done is known by content, whatever it is called and whenever it was written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.transforms import Compose, Lambda, ScaleIntensity

from custom.anatomy.loading import load_class_set
from custom.engines.report import RunReport
from custom.engines.requests import Request
from custom.engines.resume import pending_requests, settings_digest
from custom.inferers.segmentation import SegmentingInferer
from custom.outputs.result_folder import SCHEMA_VERSION
from custom.utils.files import content_digest
from tests.helpers.requests import make_request, parse

CPU = torch.device("cpu")


@pytest.fixture
def item(tmp_path: Path) -> Request:
    image = tmp_path / "ct.nii.gz"
    image.write_bytes(b"voxels")
    return make_request(image, ("liver", "spleen"))


def write_result(item: Request, output_dir: Path, digest: str) -> Path:
    """A result folder as it is written."""
    folder = output_dir / item.output_name
    folder.mkdir(parents=True, exist_ok=True)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "settings_digest": digest,
        "prompt": {"text": "liver, spleen"},
        "image_sha256": content_digest(item.image),
        "files": ["liver.nii.gz", "summary.json"],
        "not_written": {},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "liver.nii.gz").write_text("mask")
    return folder


def left(item: Request, output_dir: Path, **options: Any) -> int:
    return len(pending_requests([item], output_dir=output_dir, **({"digest": "r"} | options)))


def test_a_complete_result_of_the_same_request_is_kept(item: Request, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert left(item, out) == 1
    folder = write_result(item, out, "r")
    assert left(item, out) == 0
    assert left(item, out, overwrite=True) == 1
    (folder / "liver.nii.gz").unlink()
    assert left(item, out) == 1
    (folder / "summary.json").write_text("{ half")
    assert left(item, out) == 1


def test_the_result_of_another_request_is_replaced_only_on_request(item: Request, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_result(item, out, "r")
    with pytest.raises(
        ValueError,
        match=r"not replaced unless you say so.*ct \(by other weights, settings or another version\).*overwrite",
    ):
        left(item, out, digest="other weights")
    with pytest.raises(ValueError, match=r"ct \(of 'liver, spleen'\)"):
        left(replace(item, prompt=parse("liver")), out)
    assert left(replace(item, prompt=parse("liver")), out, overwrite=True) == 1
    (out / "ct" / "summary.json").write_text('{"schema_version": "1.3", "recipe": "r"}')
    with pytest.raises(ValueError, match=r"ct \(of another version\)"):
        left(item, out)
    write_result(item, out, "r")
    Path(item.image).write_bytes(b"other voxels of that name")
    with pytest.raises(ValueError, match=r"ct \(of other voxels\)"):
        left(item, out)


def test_voxels_beside_their_header_are_segmented_again(item: Request, tmp_path: Path) -> None:
    header = tmp_path / "ct.nhdr"
    header.write_text("data file: ct.raw")
    write_result(replace(item, image=str(header)), tmp_path / "out", "r")
    assert left(replace(item, image=str(header)), tmp_path / "out") == 1


def test_a_folder_is_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"one")
    first = content_digest(folder)
    (folder / "2.dcm").write_bytes(b"two")
    second = content_digest(folder)
    (folder / "2.dcm").rename(folder / "3.dcm")
    assert len({first, second, content_digest(folder)}) == 3


def test_the_digest_holds_whatever_decides_a_result(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    class_set = load_class_set()

    def digest(**settings: Any) -> str:
        return settings_digest(weights=weights, class_set=class_set, device=CPU, settings=settings)

    scaling, random = Compose([ScaleIntensity(maxv=2)]), Compose([Lambda(lambda volume: volume)])
    inferer = SegmentingInferer((64, 64, 64), skip_air=False)
    settings = {"prompt_text": "raw", "preprocessing": scaling, "inferer": inferer}
    first = digest(**settings)
    same = {"preprocessing": Compose([ScaleIntensity(maxv=2)]), "inferer": SegmentingInferer((64,) * 3, skip_air=False)}
    assert digest(**settings | same) == first
    others = [
        *(
            {"prompt_text": "canonical"},
            {"preprocessing": Compose([ScaleIntensity(maxv=3)])},
            {"preprocessing": random},
        ),
        *({"inferer": SegmentingInferer((64, 64, 64))}, {"inferer": SegmentingInferer((64, 64, 96), skip_air=False)}),
    ]
    found = {digest(**settings | other) for other in [*others, {"preprocessing": random}]}
    weights.write_bytes(b"22")
    assert len(found | {first, digest(**settings)}) == 8


def test_a_report_has_the_status_of_each_request(item: Request, tmp_path: Path) -> None:
    requests = [item, replace(item, output_name="b"), replace(item, output_name="c")]
    report = RunReport(requests, tmp_path / "out")
    report.start(requests[1:])
    report.note(requests[1], "done")
    report.note(requests[2], "failed", "is damaged")
    report.write()
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["counts"] == {"done": 1, "skipped": 1, "failed": 1, "pending": 0}
    assert [(row["output_name"], row["status"]) for row in written["requests"]] == [
        ("b", "done"), ("c", "failed"), ("ct", "skipped"),
    ]  # fmt: skip
    assert written["requests"][1]["reason"] == "is damaged"


def test_one_request_needs_no_report(item: Request, tmp_path: Path) -> None:
    RunReport([item], tmp_path).write()
    assert not (tmp_path / "report.json").exists()
