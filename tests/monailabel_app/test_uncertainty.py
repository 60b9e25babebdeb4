"""Strategies and scoring on real datastores, with a model whose uncertainty follows from intensities."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from lib.activelearning.uncertainty import KEY, STRATEGIES, UncertaintyScoring, unlabelled_images
from monailabel.datastore.local import LocalDatastore
from monailabel.tasks.activelearning.random import Random as StockRandom
from nibabel.filebasedimages import ImageFileError

from tests.helpers.studies import phantom_datastore


class Threshold:
    """Its probabilities are the intensities: most uncertain at 0.5."""

    def __init__(self) -> None:
        self.digest = "first"
        self.scored: list[str] = []
        self.before: Callable[[str], Any] = lambda image: None

    def uncertainty(self, image: str, *, prompt: str) -> float:
        self.before(image)
        self.scored.append(Path(image).name.split(".")[0])
        p = np.clip(np.asarray(nib.load(image).dataobj), 0.001, 0.999)
        return float(np.mean(-p * np.log2(p) - (1 - p) * np.log2(1 - p)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images a to d; the most uncertain is c, then b, d, a."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for name, value in {"a": 0.01, "b": 0.3, "c": 0.5, "d": 0.1}.items():
        nib.save(nib.Nifti1Image(np.full((4, 4, 4), value, np.float32), np.eye(4)), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def model() -> Threshold:
    return Threshold()


def label(datastore: LocalDatastore, *images: str) -> None:
    for image in images:
        datastore.save_label(image, datastore.get_image_uri(image), "final", {"label_info": [{"name": image}]})


def score(model: Threshold, datastore: LocalDatastore, prompt: str = "liver") -> Any:
    return UncertaintyScoring({"film": model})({"model": "film", "prompt": prompt}, datastore)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_only_unlabelled_images_are_offered_and_none_when_all_are_labelled(folder: Path, strategy: Any) -> None:
    datastore = phantom_datastore(folder)
    label(datastore, "a", "c", "d")
    for _ in range(10):
        assert strategy({"strategy": "x"}, datastore)["id"] == "b"
    label(datastore, "b")
    assert strategy({"strategy": "x"}, datastore) == {}


def test_first_and_random(folder: Path) -> None:
    datastore = phantom_datastore(folder)
    assert STRATEGIES["first"]({}, datastore) == {"id": "a"}
    assert {STRATEGIES["random"]({}, datastore)["id"] for _ in range(200)} == {"a", "b", "c", "d"}


def test_monai_labels_random_still_fails_on_what_it_has_just_offered(folder: Path) -> None:
    """When this fails, MONAI Label's strategy may replace the app's."""
    datastore = phantom_datastore(folder)
    for image in "abcd":
        datastore.update_image_info(image, {"strategy": {"random": {"ts": 2**40}}})
    with pytest.raises(ValueError, match="weights must be greater than zero"):
        StockRandom()({"strategy": "random"}, datastore)


def test_the_most_uncertain_comes_first_and_the_unscored_last(folder: Path, model: Threshold) -> None:
    datastore = phantom_datastore(folder)
    strategy = STRATEGIES["uncertainty"]
    selected = strategy({}, datastore)
    assert selected["id"] == "a" and "No image is scored yet" in selected["note"]
    label(datastore, "b")
    assert score(model, datastore) == {"scored": 3, "kept": 0, "failed": 0}
    assert model.scored == ["a", "c", "d"]
    assert strategy({}, datastore) == {"id": "c", "entropy": pytest.approx(1.0)}
    label(datastore, "c")
    assert strategy({}, datastore)["id"] == "d"
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 0.5, np.float32), np.eye(4)), folder / "aa.nii.gz")
    datastore.refresh()
    selected = strategy({}, datastore)
    assert selected["id"] == "d" and selected["note"] == "1 of 3 images are not scored yet."


def test_scores_of_several_models(folder: Path) -> None:
    datastore = phantom_datastore(folder)
    for image, scores in {"a": {"film": 0.1, "film2": 0.9}, "b": {"film": 0.2}, "c": {"film2": 0.3}}.items():
        datastore.update_image_info(image, {KEY: {model: {"entropy": value} for model, value in scores.items()}})
    chosen = [STRATEGIES["uncertainty"]({"model": model}, datastore)["id"] for model in ("film", "film2", None, "")]
    assert chosen == ["b", "a", "a", "a"]


@pytest.mark.parametrize(
    "info",
    [None, [], {"film": 3}, {"film": []}, {"film": {}}, *({"film": {"entropy": x}} for x in ("1", math.nan, math.inf))],
)
def test_malformed_scores_are_ignored(folder: Path, model: Threshold, info: Any) -> None:
    datastore = phantom_datastore(folder)
    datastore.update_image_info("c", {KEY: info})
    assert "No image is scored yet" in STRATEGIES["uncertainty"]({"model": "film"}, datastore)["note"]
    assert score(model, datastore)["scored"] == 4


def test_a_stopped_scoring_is_resumed(folder: Path, model: Threshold, capsys: pytest.CaptureFixture[str]) -> None:
    datastore = phantom_datastore(folder)

    def stop(image: str) -> None:
        if len(model.scored) == 2:
            raise KeyboardInterrupt

    model.before = stop
    with pytest.raises(KeyboardInterrupt):
        score(model, datastore)
    model.before = lambda image: None
    assert score(model, phantom_datastore(folder)) == {"scored": 2, "kept": 2, "failed": 0}
    assert model.scored == ["a", "b", "c", "d"]
    assert score(model, phantom_datastore(folder))["kept"] == 4
    assert score(model, datastore, "spleen")["scored"] == 4
    model.digest = "fine-tuned"
    assert score(model, datastore, "spleen")["scored"] == 4
    record = datastore.get_image_info("c")[KEY]["film"]
    assert record.keys() == {"entropy", "prompt", "weights", "ts"}
    output = capsys.readouterr().out
    assert "4 of 4 images" in output
    assert str(folder) not in output and "spleen" not in output


def test_an_image_that_cannot_be_read_does_not_stop_the_others(folder: Path, model: Threshold) -> None:
    (folder / "b.nii.gz").write_text("no image")
    datastore = phantom_datastore(folder)
    assert score(model, datastore) == {"scored": 3, "kept": 0, "failed": 1}
    label(datastore, "a", "c", "d")
    with pytest.raises(ImageFileError):
        score(model, datastore)


def test_a_label_saved_while_another_process_scores_keeps_its_names(folder: Path, model: Threshold) -> None:
    """The server's datastore may overwrite a score, never the other way round; the next scoring repeats it."""
    server, scoring = phantom_datastore(folder), phantom_datastore(folder)
    model.before = lambda image: label(server, "d") if Path(image).name.startswith("b") else None
    score(model, scoring)
    stored = json.loads((folder / "datastore_v2.json").read_text())["objects"]
    assert stored["d"]["labels"]["final"]["info"]["label_info"] == [{"name": "d"}]
    assert unlabelled_images(scoring) == ["a", "b", "c"]
    assert score(model, scoring) == {"scored": 1, "kept": 2, "failed": 0}
    assert STRATEGIES["uncertainty"]({}, server)["id"] == "c"
    server.update_image_info("c", {"strategy": {}})
    assert STRATEGIES["uncertainty"]({}, phantom_datastore(folder)) == {"id": "c", "entropy": pytest.approx(1.0)}


def test_a_scoring_offers_its_models(model: Threshold) -> None:
    scoring = UncertaintyScoring({"film": model, "film2": model})
    assert scoring.info()["config"] == {"model": ["film", "film2"], "prompt": ""}
