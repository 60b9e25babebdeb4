"""MONAI's own syntax in a text is refused before anything is evaluated."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from custom.bundle.overrides import RENAMED, check_arguments
from custom.bundle.root import existing_settings
from tests.helpers import ROOT
from tests.helpers.warm_python import run_python

CONFIGS = ROOT / "bundles" / "film_swinunetr" / "configs"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompt", "$1"],
        ["--prompt", "@weights"],
        ["--prompt", "%/etc/passwd"],
        ["--prompt=$1"],
        ["-prompt", "$1"],
        ["inference", "--image", "['a.nii', '$1']"],
        ["--image", "{'_target_': 'os.getcwd'}"],
        ["--text-encoder", '"$1"'],
        ["--class_set#source", "$1"],
        ["--prompt", "liver # not the spleen"],
        ["--output_dir", "/data/run#1"],
    ],
)
def test_monais_syntax_in_a_text_is_refused(arguments: Sequence[str]) -> None:
    with pytest.raises(ValueError, match=r"must (be a text that does not begin with|not hold #)"):
        check_arguments(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompt", "liver, spleen & both kidneys"],
        ["--prompt", "[liver]", "--image", "/data/a@b 100%.nii.gz", "--output_dir", "./$x"],
        ["--device", "$torch.device('cpu')", "--train::trainer::max_epochs", "@val_interval", "--spacing", "$[1,1,1]"],
        ["--prompt"],
        [],
    ],
)
def test_other_texts_and_other_settings_are_left_alone(arguments: Sequence[str]) -> None:
    check_arguments(arguments)


TRAIN = ("run", "training", "--config_file", str(CONFIGS / "train.json"))
SCORE = ("run", "--config_file", f"['{CONFIGS}/train.json','{CONFIGS}/evaluate.json']")
INFER = ["run", "inference", "--config_file", str(CONFIGS / "inference.json")]


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        ((*TRAIN, "--max_epoch", "50"), "max_epochs"),
        ((*TRAIN, "--max-epoch=50"), "max_epochs"),
        ((*TRAIN, "--vall_interval", "1"), "val_interval"),
        ((*TRAIN, "--train::trainers::max_epochs", "50"), "trainer"),
        ((*SCORE, "--validate::prompt_text", "['raw']"), "prompt_texts"),
        ((*SCORE, "--postproces", "False"), "postprocess"),
    ],
)
def test_a_misspelt_setting_is_refused(arguments: Sequence[str], near: str) -> None:
    """MONAI takes any name, and --max_epoch 50 would train a thousand epochs."""
    with pytest.raises(ValueError, match=rf"would have no effect.*Nearest: [\w, ]*{near}"):
        check_arguments(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*TRAIN, "--window_size", "4"), "--window_size is now --network_def::window_size"),
        ((*TRAIN, "--crop_by_class", "[]"), "--crop_by_class is now --train::crop_datasets"),
        (
            (*TRAIN, "--max_classes", "3"),
            "--max_classes is now --train::max_classes_per_prompt in training, group_size in inference",
        ),
        ((*SCORE, "--overlap", "0.5"), "--overlap is now --validate::inferer::overlap in training and evaluation"),
        ((*INFER, "--test_time_augmentation", "True"), "is not a setting here: no weights"),
        ((*INFER, "--feature_size", "24"), "is not a setting here: inference reads it from the weights"),
        (
            (*TRAIN, "--lr", "1e-3"),
            "these configs have no 'lr'. Nearest: learning_rate.",
        ),
        ((*TRAIN, "--wd", "1e-3"), "Nearest: optimizer::weight_decay."),
        ((*TRAIN, "--uniform_sample", "True"), "Nearest: train::sampling."),
        ((*INFER, "--ckpt", "my.pt"), "for these configs have no 'ckpt'. Nearest: weights."),
        ((*INFER, "--tta", "True"), "is not a setting here: no weights"),
        ((*INFER, "--threshold", "0.3"), "is not a setting here: a voxel belongs"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(arguments: Sequence[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_arguments(arguments)


@pytest.mark.parametrize("setting", sorted(RENAMED))
def test_a_new_name_is_a_setting(setting: str) -> None:
    """What an old name is refused for exists, in training or in inference."""
    new = RENAMED[setting].split(" in ")[0]
    configs = [json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("train", "inference")]
    hidden = new.startswith("network_def::") and new.split("::")[1] in ("hidden_size", "num_heads")  # of UNETR
    assert hidden or any(existing_settings(config, {new: 0}) for config in configs)


@pytest.mark.parametrize(
    "arguments",
    [
        (*TRAIN, "--train::trainer::max_epochs", "50", "--validate#split", "test", "--run_id", "training", "--noamp"),
        (
            *TRAIN,
            "--tracking",
            "mlflow",
            "--tracking_uri",
            "http://x",
            "--experiment_name",
            "y",
            "--workflow_type",
            "train",
        ),
        (*TRAIN, "--lr", "3e-4", "--seeds", "[1]", "--learning_rate", "@lr", "--seed", "$@seeds[0]"),
        (*TRAIN, "--max_epochs", "1", "--", "--verbose"),
        (*SCORE, "--postprocess", "0", "--validate::inferer::overlap", "0.5"),
        ("ckpt_export", "--config_file", str(CONFIGS / "train.json"), "--net_id", "network_def"),
        ("run", "training", "--config_file", "none.json", "--max_epoch", "50"),
        ("run", "training", "--args_file", "none.json", "--max_epoch", "50"),
    ],
)
def test_what_may_be_added_or_is_not_ours_is_left_alone(arguments: Sequence[str]) -> None:
    check_arguments(arguments)


def test_what_an_args_file_says_is_checked_too(tmp_path: Path) -> None:
    """It is the command line in a file, and MONAI takes any name there as well."""
    args_file = tmp_path / "args.json"

    def check(*arguments: str, **in_file: Any) -> None:
        args_file.write_text(json.dumps(in_file))
        check_arguments(["run", "training", "--args_file", str(args_file), *arguments])

    files = [str(CONFIGS / "train.json")]
    check(config_file=files, max_epochs=50, **{"train#trainer#max_epochs": 3, "lr_scheduler": None})
    check(config_file=files, learning_rate="@lr", lr=3e-4)
    with pytest.raises(ValueError, match=r"--max_epoch would have no effect.*Nearest: max_epochs"):
        check(config_file=files, max_epoch=50)
    with pytest.raises(ValueError, match=r"--max_epoch would have no effect.*Nearest: max_epochs"):
        check("--config_file", files[0], max_epoch=50)
    with pytest.raises(ValueError, match=r"--max_epoch would have no effect.*Nearest: max_epochs"):
        check("--max_epoch", "50", config_file=files[0])
    with pytest.raises(ValueError, match="--dataset_dir must be a text that does not begin with"):
        check(config_file=files, dataset_dir="$import evil")
    with pytest.raises(ValueError, match="--prompt must not hold #"):
        check(config_file=files, prompt=["liver", "kidney #2"])


def test_a_misspelt_setting_ends_the_run() -> None:
    assert "--max_epoch would have no effect" in run("--max_epoch", "50", config="train")


def test_none_is_no_value() -> None:
    """MONAI leaves out what is None, so that the config's own value would be used."""
    with pytest.raises(ValueError, match="--train::crop_ratios None has no effect"):
        check_arguments(["training", "--train::crop_ratios", "None"])
    check_arguments(["training", "--meta_file", "None", "--train::crop_ratios", "[]"])
    assert "--train::max_grad_norm None has no effect" in run("--train::max_grad_norm=None", config="train")


def run(*arguments: str, config: str = "inference", cwd: Path = ROOT) -> str:
    command = ("-m", "monai.bundle", "run", "--config_file", CONFIGS / f"{config}.json", *arguments)
    result = run_python(*command, cwd=cwd)
    assert result.returncode != 0
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("setting", ["prompt", "image"])
def test_code_in_a_text_is_not_evaluated(tmp_path: Path, setting: str) -> None:
    trace = tmp_path / "trace"
    assert "were not evaluated" in run(f"--{setting}", f"$__import__('pathlib').Path('{trace}').touch()")
    assert not trace.exists()


def test_imports_are_not_evaluated(tmp_path: Path) -> None:
    """MONAI runs `$import ...`, wherever it stands in a config, before all else."""
    (tmp_path / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'trace')!r}).touch()\n")
    assert "were not evaluated" in run("--dataset_dir", "$import evil", config="train", cwd=tmp_path)
    assert not (tmp_path / "trace").exists()


def test_what_a_macro_brings_in_is_not_evaluated(tmp_path: Path) -> None:
    """MONAI opens the file before any code of ours; its content is not evaluated."""
    trace = tmp_path / "trace"
    (tmp_path / "x.json").write_text(json.dumps({"prompt": f"$__import__('pathlib').Path('{trace}').touch()"}))
    assert "were not evaluated" in run("--prompt", f"%{tmp_path}/x.json::prompt")
    assert not trace.exists()
    run("--prompt", "%/etc/passwd")  # refused by MONAI itself, which takes it for the name of a config item
