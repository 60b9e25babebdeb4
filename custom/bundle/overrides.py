"""What a command line may say: texts are texts, and MONAI's own syntax in them is refused, never evaluated.

MONAI evaluates every value that begins with ``$`` (Python), ``@`` (a reference) or ``%`` (a piece of another file),
and turns ``#`` into ``::``. A prompt or a path may come from anywhere, so `check_text` refuses such texts. Each
config imports this module before anything else; under ``python -m monai.bundle`` importing it checks the command line,
which is the earliest that code of ours can run. Before that, MONAI has resolved ``%``: it may have opened the JSON or
YAML file named there, or failed with a message of its own; nothing that it read is evaluated.
"""

import difflib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import monai.bundle
from fire.parser import DefaultParseValue, SeparateFlagArgs
from monai.bundle import ConfigParser

#: Settings whose value is a text (or a list of texts). MONAI's syntax stays available in every other override.
TEXT_SETTINGS = {
    *("prompt", "prompt_text", "prompts", "image", "output_dir", "weights", "dataset_dir", "ckpt_dir", "pretrained"),
    *("bundle_root", "text_model", "text_bank", "text_encoder", "split", "class_set_file"),
    *("cache_dir", "class_set::source", "formats", "bank::path", "bank::encoder::kind", "bank::encoder::model"),
    *("network_def::variant", "trained::weights"),
}

#: Settings of earlier versions, and what they are now.
RENAMED = {
    **{key: f"network_def::{key}" for key in ("variant", "window_size", "hidden_size", "num_heads", "use_checkpoint")},
    **{key: f"train::{key}" for key in ("crop_ratios", "max_grad_norm", "sampling", "prompt_policy", "resume")},
    "samples_per_volume": "train::samples_per_volume",
    "max_classes_per_prompt": "train::max_classes_per_prompt in training, group_size in inference",
    **{key: f"loss::{key}" for key in ("bce_weight", "bce_balance", "dice_of_empty")},
    **{"folds": "cases::folds", "fold": "cases::fold", "weight_decay": "optimizer::weight_decay"},
    **{"crop_by_class": "train::crop_datasets", "zoomed": "train::zoom_datasets", "new_head": "pretraining::new_head"},
    **{"warmup_epochs": "lr_scheduler::warmup_epochs", "cache_rate": "train::dataset::cache_rate"},
    **{"text_kind": "bank::encoder::kind", "processes": "process_group", "labelled": "trained_classes"},
    **{"iterations_per_epoch": "epoch_length", "asking": "prompt_preprocessing", "questions": "requests"},
    **{"share": "process_requests", "unanswered": "pending", "validate::questions": "validate::requests"},
    **{"recipe": "settings_digest", "load": "checkpointloader", "start": "pretraining"},
    **{"train::augmentation": "train::random_transforms", "train::prompting": "train::prompt_transforms"},
    "max_classes": "train::max_classes_per_prompt in training, group_size in inference",
    "sw_batch_size": "validate::inferer::sw_batch_size in training and evaluation, inferer::sw_batch_size in inference",
    "overlap": "validate::inferer::overlap in training and evaluation, inferer::overlap in inference",
}

#: Names that other projects and the references have for a setting.
MEANT = {
    **{"lr": "learning_rate", "wd": "optimizer::weight_decay", "bs": "batch_size", "epochs": "max_epochs"},
    **{"warmup": "lr_scheduler::warmup_epochs", "uniform_sample": "train::sampling", "dist": "process_group"},
    **{"ckpt": "weights", "checkpoint": "weights", "model": "weights", "output": "output_dir", "text": "prompt"},
    **{"resume_from": "ckpt_dir", "pretrain": "pretrained", "data_dir": "dataset_dir", "workers": "num_workers"},
}

_OF_WEIGHTS = "inference reads it from the weights"

#: Settings that are gone, or in inference, and why.
REMOVED = {
    **dict.fromkeys(("feature_size", "text_encoder", "spacing", "roi_size", "trained_classes"), _OF_WEIGHTS),
    **dict.fromkeys(("threshold", "thresh"), "a voxel belongs to a class where its probability is above one half"),
    **dict.fromkeys(("tta", "mirror"), "no weights of this project were trained with mirrored bodies, and lost by it"),
    "test_time_augmentation": "no weights of this project were trained with mirrored bodies, and lost by it",
    "architecture": "a weights header states the network's own settings",
}

#: Arguments of MONAI's own, which may be None.
_MONAIS_OWN = {
    name
    for function in (monai.bundle.run, monai.bundle.create_workflow, monai.bundle.ConfigWorkflow)
    for name in inspect.signature(function).parameters
} | {"tracking_uri", "experiment_name", "run_name", "save_execute_config"}  # read where --tracking is given


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse texts that MONAI would evaluate or change, and settings and values that it would ignore.

    Args:
        arguments: of a command line; what a file of ``--args_file`` says is checked too.

    Raises:
        ValueError: a text, or part of a list, that ``check_text`` refuses; None for any setting on the command line,
            which MONAI takes for no value; a misspelt setting of ``run``.
    """
    arguments, _ = SeparateFlagArgs(list(arguments))
    overrides = list(_overrides(arguments))
    in_file = _args_file(dict(overrides).get("args_file", ""))
    texts = [(setting, text) for setting, value in in_file.items() if value is not None for text in _texts(value)]
    for setting, value in overrides:
        read = DefaultParseValue(value)
        if setting not in _MONAIS_OWN and read is None:
            raise ValueError(
                f"--{setting} None has no effect, for MONAI ignores it. Leave it out, or give another value."
            )
        texts += [(setting, text) for text in (value, *_texts(read))]
    for setting, text in texts:
        if setting in TEXT_SETTINGS:
            check_text(setting, text)
    if list(arguments[:1]) == ["run"]:
        _check_names(in_file | dict(overrides))


def config_files() -> list[Path]:
    """The config files that the command line of ``python -m monai.bundle`` names; none in another program."""
    if not _is_monai_bundle():
        return []
    overrides = dict(_overrides(sys.argv[1:]))
    overrides = _args_file(overrides.get("args_file", "")) | overrides
    return [Path(file) for file in _files(overrides.get("config_file", ""))]


def check_text(setting: str, text: object) -> None:
    """Refuse a value that is not a text, or one that MONAI would evaluate or change.

    Raises:
        ValueError: it begins with ``$``, ``@`` or ``%``, holds ``#`` or is an object; the message names ``setting``.
    """
    if not isinstance(text, str) or text.startswith(("$", "@", "%")):
        raise ValueError(
            f"--{setting} must be a text that does not begin with $, @ or %: to MONAI these mean code, a reference "
            f"and a file, and they were not evaluated. Received {text!r:.200}. Write the prompt in words; rename the "
            "file or folder, or put ./ before its name."
        )
    if "#" in text:
        raise ValueError(
            f"--{setting} must not hold #, which MONAI reads as ::, and the command line as the begin of a comment. "
            f"Received {text!r:.200}. Write the prompt without it; rename the file or folder."
        )


def _overrides(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Settings and their values as Fire pairs them."""
    for argument, following in pairwise([*arguments, ""]):
        if re.match("--|-[a-zA-Z]", argument):
            name, equals, value = argument.lstrip("-").partition("=")
            yield name.replace("-", "_").replace("#", "::"), value if equals else following


def _args_file(argument: str) -> dict[str, Any]:
    """Settings and their values in the JSON or YAML files of ``--args_file``; none where a file is missing."""
    overrides: dict[str, Any] = {}
    for file in _files(argument):
        overrides |= ConfigParser.load_config_file(file)
    return {name.replace("#", "::"): value for name, value in overrides.items()}


def _files(argument: Any) -> list[str]:
    """The files that ``--args_file`` or ``--config_file`` names, if all are there: else MONAI speaks of them."""
    value = DefaultParseValue(argument) if isinstance(argument, str) else argument
    files = [str(file) for file in (value if isinstance(value, list | tuple) else [value])]
    return files if all(Path(file).is_file() for file in files) else []


def _check_names(overrides: Mapping[str, Any]) -> None:
    """Refuse a setting of ``run`` that its configs do not have: MONAI takes any name, and nothing would read it."""
    files = _files(overrides.get("config_file", ""))
    if not files:
        return
    parser = ConfigParser()
    parser.read_config(files)
    for setting in overrides:
        unknown = None if setting in _MONAIS_OWN else _unknown(parser.config, setting)
        if unknown is None or any(f"@{setting}" in str(value) for value in overrides.values()):
            continue
        name, known = unknown
        if name.startswith("no") and name[2:] in known:  # Fire reads --noamp as --amp False
            continue
        if setting in RENAMED:
            raise ValueError(f"--{setting} is now --{RENAMED[setting]}.")
        if setting in REMOVED:
            raise ValueError(f"--{setting} is not a setting here: {REMOVED[setting]}.")
        near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.6))
        if (meant := MEANT.get(setting)) and _unknown(parser.config, meant) is None:
            near = meant
        nearest = f" Nearest: {near}." if near else " docs/training.md and docs/inference.md list the settings."
        raise ValueError(f"--{setting} would have no effect, for these configs have no {name!r}.{nearest}")


def _unknown(config: Any, setting: str) -> tuple[str, list[str]] | None:
    """The first part of a path that a config lacks, and its siblings; None where the config may take it."""
    part = config
    for key in setting.split("::"):
        if not isinstance(part, dict) or (key not in part and "_target_" in part):  # arguments of a component
            return None
        if key not in part:
            return key, list(part)
        part = part[key]
    return None


def _texts(value: Any) -> Iterator[object]:
    """The texts in a value, and its objects, which MONAI might instantiate."""
    if isinstance(value, list | tuple | set):
        for part in value:
            yield from _texts(part)
    else:
        yield value if isinstance(value, dict) else str(value)


def _is_monai_bundle() -> bool:
    specification = getattr(sys.modules.get("__main__"), "__spec__", None)
    return specification is not None and specification.name == "monai.bundle.__main__"


if _is_monai_bundle():
    try:
        check_arguments(sys.argv[1:])
    except ValueError as error:  # MONAI swallows errors of an import, but not an exit
        raise SystemExit(str(error)) from None
