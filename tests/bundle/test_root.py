"""A bundle finds its own folder, wherever it is run from."""

import json
import shutil
from pathlib import Path

import pytest

from custom.bundle.root import find_bundle_root
from tests.helpers import ROOT
from tests.helpers.warm_python import run_python

BUNDLE = ROOT / "bundles" / "film_swinunetr"


def make_bundle(folder: Path, name: str) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps({"name": name}))
    return folder


@pytest.mark.parametrize("folder", [ROOT, BUNDLE, ROOT / "bundles", BUNDLE / "configs", Path("/")])
def test_the_bundle_is_found_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_bundle_root("film_swinunetr") == str(BUNDLE)


@pytest.mark.parametrize("place", [".", "bundles/film_swinunetr"])
def test_the_working_directory_comes_first(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = make_bundle(tmp_path / place, "film_swinunetr")
    monkeypatch.chdir(tmp_path)
    assert find_bundle_root("film_swinunetr") == str(copy.resolve())


def test_another_bundle_in_the_working_directory_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "other", "other")
    monkeypatch.chdir(tmp_path / "other")
    assert find_bundle_root("film_swinunetr") == str(BUNDLE)
    assert find_bundle_root("other") == str(tmp_path / "other")


@pytest.mark.parametrize("name", ["film_swinunet", "", "other"])
def test_an_unknown_bundle_is_an_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"No bundle '{name}'.*--bundle_root"):
        find_bundle_root(name)


def test_a_config_that_the_command_line_names_brings_its_bundle(tmp_path: Path) -> None:
    """Two exports of one bundle: what is named is segmented with its own weights."""
    for name in ("one", "other"):
        shutil.copytree(BUNDLE / "configs", tmp_path / name / "film_swinunetr" / "configs")
    config = tmp_path / "other" / "film_swinunetr" / "configs" / "inference.json"
    arguments = ["--config_file", str(config), "--image", "none.nii.gz", "--prompt", "liver"]
    done = run_python("-m", "monai.bundle", "run", "inference", *arguments, cwd=tmp_path / "one" / "film_swinunetr")
    assert f"no trained weights at {tmp_path / 'other' / 'film_swinunetr' / 'models'}" in done.stderr
