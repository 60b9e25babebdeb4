"""A progress bar that names the volume; log lines instead where there is no terminal."""

import io
import logging
import re
import sys
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from custom.inferers.progress import WindowProgress
from custom.inferers.sliding_window import PromptedSlidingWindowInferer


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Call it in the test itself, for pytest replaces stderr between fixtures and tests."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


class Constant:
    """Copies the image to three channels."""

    def encode(self, image: torch.Tensor) -> Any:
        return (image,)

    def decode(self, features: Any, text: torch.Tensor | None = None, *, channels: Any = None) -> torch.Tensor:
        image: torch.Tensor = features[0]
        return image.repeat(1, 3, 1, 1, 1)

    def __call__(self, image: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        raise NotImplementedError


def volume(path: str | None, *shape: int) -> torch.Tensor:
    image = torch.zeros(1, 1, *shape)
    return image if path is None else MetaTensor(image, meta={"filename_or_obj": [path]})


IMAGES = ("/data/ct_01.nii.gz", "/data/ct_02.nii.gz", "/data/ct_03.nii.gz")


def test_a_bar_shows_volume_window_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with WindowProgress(IMAGES).volume(volume(IMAGES[1], 1, 1, 1), windows=36) as advance:
        for count in (10, 2, 20, 4):
            advance(count)
    shown = terminal.getvalue()
    last = shown.rstrip().split("\r")[-1]
    assert re.search(r"ct_02\.nii\.gz \(2 of 3\): window 36 of 36 \|#{24}\| \[00:00<00:00\]", last), shown


def test_several_prompts_are_counted_within_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with WindowProgress(IMAGES).volume(volume(IMAGES[0], 1, 1, 1), windows=4, prompts=3) as advance:
        for _ in range(3):
            advance(3)
            advance(1)
    assert "ct_01.nii.gz (1 of 3), prompt 3 of 3: window 4 of 4" in terminal.getvalue()


def test_without_a_terminal_one_line_per_volume_is_logged(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    progress = WindowProgress(IMAGES)
    for path, windows, prompts in ((IMAGES[2], 8, 1), ("/elsewhere/ct.nii", 8, 2), (None, 1, 1)):
        with progress.volume(volume(path, 1, 1, 1), windows=windows, prompts=prompts) as advance:
            advance(windows)
    lines = ["ct_03.nii.gz (3 of 3): 8 windows", "ct.nii: 2 prompts, 8 windows", "volume: 1 window"]
    assert [record.getMessage() for record in caplog.records] == lines
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shape", [(32, 32, 32), (33, 70, 20), (100, 64, 57), (128, 40, 96)])
@pytest.mark.parametrize(("overlap", "batch"), [(0.25, 1), (0.5, 3), (0.0, 2)])
def test_the_inferer_counts_its_windows(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], overlap: float, batch: int
) -> None:
    terminal = open_terminal(monkeypatch)
    infer = PromptedSlidingWindowInferer(
        (32, 64, 32), overlap=overlap, sw_batch_size=batch, amp=False, progress=WindowProgress()
    )
    image = volume("/data/ct.nii", *shape)
    infer(image, Constant(), torch.zeros(1, 2))
    found = re.findall(r"ct\.nii: window (\d+) of (\d+)", terminal.getvalue())
    assert found[-1][0] == found[-1][1]
    results = list(infer.each_prompt(image, Constant(), torch.zeros(1, 2, 2)))
    assert not any(isinstance(logits, MetaTensor) for logits in results)
    total = found[-1][1]
    assert f"prompt 2 of 2: window {total} of {total}" in terminal.getvalue()
