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
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import monai.bundle
from fire.parser import DefaultParseValue, SeparateFlagArgs
from monai.bundle import ConfigParser

#: Knobs whose value is a text (or a list of texts). MONAI's syntax stays available in every other override.
TEXT_KNOBS = {
    *("prompt", "prompt_text", "prompts", "image", "output_dir", "weights", "dataset_dir", "ckpt_dir", "pretrained"),
    *("bundle_root", "text_model", "text_bank", "text_encoder", "text_kind", "variant", "split", "class_set_file"),
    *("cache_dir", "class_set::source", "formats"),
}

#: Arguments of MONAI's own, which may be None.
_MONAIS_OWN = {
    name
    for function in (monai.bundle.run, monai.bundle.create_workflow, monai.bundle.ConfigWorkflow)
    for name in inspect.signature(function).parameters
}

_FLAG = re.compile(r"--|-[a-zA-Z]")


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse texts in a command line that MONAI would evaluate or change, and knobs and values that it would ignore.

    Args:
        arguments: as the shell gives them: ``--name value``, ``--name=value``.

    Raises:
        ValueError: a text knob whose value, or part of it, begins with ``$``, ``@`` or ``%``, holds ``#`` or is an
            object; None for any knob, which MONAI takes for no value; a misspelt knob of ``run``.
    """
    arguments, _ = SeparateFlagArgs(list(arguments))
    _check_spelling(arguments)
    for knob, value in _overrides(arguments):
        if knob not in _MONAIS_OWN and DefaultParseValue(value) is None:
            raise ValueError(f"--{knob} None has no effect, for MONAI ignores it. Leave it out, or give another value.")
        if knob in TEXT_KNOBS:
            for text in (value, *_texts(DefaultParseValue(value))):
                check_text(knob, text)


def check_text(knob: str, text: object) -> None:
    """Refuse a value that is not a text, or one that MONAI would evaluate or change.

    Raises:
        ValueError: it begins with ``$``, ``@`` or ``%``, holds ``#`` or is an object; the message names ``knob``.
    """
    if not isinstance(text, str) or text.startswith(("$", "@", "%")):
        raise ValueError(
            f"--{knob} must be a text that does not begin with $, @ or %: to MONAI these mean code, a reference and a "
            f"file, and they were not evaluated. Received {text!r:.200}. Write the prompt in words; rename the file or "
            "folder, or put ./ before its name."
        )
    if "#" in text:
        raise ValueError(
            f"--{knob} must not hold #, which MONAI reads as ::, and the command line as the begin of a comment. "
            f"Received {text!r:.200}. Write the prompt without it; rename the file or folder."
        )


def _overrides(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Knobs and their values as Fire pairs them."""
    for argument, following in pairwise([*arguments, ""]):
        if _FLAG.match(argument):
            name, equals, value = argument.lstrip("-").partition("=")
            yield name.replace("-", "_").replace("#", "::"), value if equals else following


def _check_spelling(arguments: Sequence[str]) -> None:
    """Refuse a knob of ``run`` that its configs lack and that is spelled like one of theirs: MONAI takes any name."""
    overrides = dict(_overrides(arguments))
    files = DefaultParseValue(overrides.get("config_file", ""))
    files = list(files) if isinstance(files, list | tuple) else [files]
    if list(arguments[:1]) != ["run"] or not all(Path(str(file)).is_file() for file in files):
        return
    config = ConfigParser()
    config.read_config([str(file) for file in files])
    for knob in overrides:
        holder, _, name = knob.rpartition("::")
        known = config[holder] if holder in config or not holder else None
        if knob in config or knob in _MONAIS_OWN or not isinstance(known, dict) or "_target_" in known:
            continue
        negated = name.startswith("no") and name[2:] in known  # Fire reads --noamp as --amp False
        used = any(f"@{knob}" in value for value in overrides.values())
        if not (negated or used) and (near := difflib.get_close_matches(name, known, n=3, cutoff=0.75)):
            raise ValueError(
                f"--{knob} would have no effect, for these configs have no {name!r}. Nearest: {', '.join(near)}."
            )


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
