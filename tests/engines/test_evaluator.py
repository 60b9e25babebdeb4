"""An image that cannot be segmented takes nothing from the next one."""

import gc
import json
import shutil
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset

from custom.engines.evaluator import FaultTolerantEvaluator, ImagesFailed
from custom.engines.report import RunReport
from custom.engines.requests import Request, single_item
from custom.inferers.result import Segmentation
from custom.outputs.result_folder import OutputError
from tests.helpers.requests import make_request
from tests.helpers.small_bundle import Bundle


def evaluator(infer: Any, output_dir: Path) -> FaultTolerantEvaluator:
    requests = [make_request(f"/data/{name}.nii", output_name=name) for name in "abc"]
    dataset = Dataset(requests, lambda request: {"request": request, "image": torch.zeros(1, 2, 2, 2)})
    return FaultTolerantEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=1, collate_fn=single_item),
        network=torch.nn.Identity(),
        inferer=infer,
        prepare_batch=lambda item, device, non_blocking, **_: (item["image"][None], None),
        report=RunReport(requests, output_dir),
    )


def found() -> Segmentation:
    return Segmentation.of({6: torch.ones(2, 2, 2, dtype=torch.bool).numpy()}, torch.eye(4).numpy())


def statuses(output_dir: Path) -> list[str]:
    return [row["status"] for row in json.loads((output_dir / "report.json").read_text())["requests"]]


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, ValueError])
def test_what_a_failed_image_held_is_free_before_the_next(kind: type[Exception], tmp_path: Path) -> None:
    held: list[weakref.ref[Any]] = []

    def infer(inputs: torch.Tensor, network: Any) -> Segmentation:
        if not held:
            large = torch.zeros(1000)
            held.append(weakref.ref(large))
            raise kind("CUDA out of memory.")
        assert held[0]() is None
        return found()

    gc.disable()
    try:
        with pytest.raises(ImagesFailed, match=r"2 of 3 segmented; a\.nii: ") as failed:
            evaluator(infer, tmp_path).run()
    finally:
        gc.enable()
    out_of_memory = "There must be memory for this image" in str(failed.value)
    assert out_of_memory == (kind is torch.OutOfMemoryError)
    assert statuses(tmp_path) == ["failed", "done", "done"]


@pytest.mark.parametrize(("error", "ends"), [(OutputError("full"), OutputError), (KeyboardInterrupt(), SystemExit)])
def test_an_early_end_is_reported(error: BaseException, ends: type[BaseException], tmp_path: Path) -> None:
    calls: list[int] = []

    def infer(inputs: torch.Tensor, network: Any) -> Segmentation:
        calls.append(1)
        if len(calls) == 2:
            raise error
        return found()

    with pytest.raises(ends):
        evaluator(infer, tmp_path).run()
    second = "failed" if isinstance(error, OutputError) else "pending"
    assert statuses(tmp_path) == ["done", second, "pending"]


def test_a_result_is_reported_that_ctrl_c_left_unnoted(
    bundle: Bundle, coarse_ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a result's folder and its line in the report there is a moment."""
    for name in ("a", "b"):
        shutil.copy(coarse_ct, tmp_path / f"{name}.nii.gz")
    note = RunReport.note
    interrupted: list[Request] = []

    def interrupt_first(report: RunReport, request: Request, status: str, reason: str | None = None) -> None:
        if not interrupted:
            interrupted.append(request)
            raise KeyboardInterrupt
        note(report, request, status, reason)

    monkeypatch.setattr(RunReport, "note", interrupt_first)
    images = f"{tmp_path}/a.nii.gz,{tmp_path}/b.nii.gz"
    with pytest.raises(SystemExit):
        bundle.infer(images, tmp_path / "out")
    counts = json.loads((tmp_path / "out" / "report.json").read_text())["counts"]
    assert (counts["done"], counts["pending"]) == (1, 1)
    assert (tmp_path / "out" / "a" / "summary.json").is_file()

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("custom.inferers.segmentation.SegmentingInferer.__call__", interrupt)
    with pytest.raises(SystemExit):
        bundle.infer(images, tmp_path / "out", overwrite=True)
    again = json.loads((tmp_path / "out" / "report.json").read_text())["counts"]
    assert again["pending"] == 2, "a result of before is none of this run"


class Finalised:
    """Ctrl-C comes while this is destroyed, where Python can only print what is raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_in_a_finaliser_ends_before_the_next_image(tmp_path: Path) -> None:
    def infer(inputs: torch.Tensor, network: Any) -> Segmentation:
        Finalised()
        return found()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(SystemExit) as end:
            evaluator(infer, tmp_path).run()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert end.value.code == 130
    assert statuses(tmp_path) == ["done", "pending", "pending"]
