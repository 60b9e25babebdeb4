"""Command lines read by Fire: all arguments are understood before a command is called, and texts stay what was typed.

Fire alone calls a command first and complains of an unknown option afterwards, and makes a number of 1.0. (Scripts,
which take numbers, leave it that.)
"""

import functools
import inspect
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, TypeVar

import fire
from fire.parser import DefaultParseValue

_FLAG = re.compile(r"--|-[a-zA-Z]")

T = TypeVar("T")


def parse_arguments(
    arguments: Sequence[str], commands: Mapping[str, Callable[..., int]], *, program: str
) -> Callable[[], int]:
    """The command that ``arguments`` name, with its values, to be called.

    Args:
        arguments: as the shell gives them; ``-o`` is short for ``--output_dir``.
        commands: by name; their parameters are texts, and True or False where the default is False.
        program: what the user typed before the arguments.

    Raises:
        SystemExit: help is asked for and printed, or the usage, for Fire does not understand.
        ValueError: no command; a text without a value; another value than True or False.
    """
    if not arguments or {"--help", "-h"}.intersection(
        arguments
    ):  # Fire would explain what follows from a whole command, which is nothing
        arguments = [*(argument for argument in arguments[:1] if argument not in ("--help", "-h")), "--help"]
    understood: list[functools.partial[int]] = []
    kept = {name: _later(command, understood) for name, command in commands.items()}
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            fire.Fire(kept, command=_as_texts(arguments), name="PROGRAM")
    except SystemExit as end:
        print(said.getvalue().replace("PROGRAM", program), file=sys.stderr if end.code else sys.stdout)
        if end.code:
            print("A prompt of several words stands in quotes. Each command has its --help.", file=sys.stderr)
        raise
    if not understood:
        raise ValueError(f"A command must be one of {', '.join(commands)}; received {' '.join(arguments)!r:.80}.")
    [call] = understood
    return functools.partial(call.func, **_values(inspect.signature(call.func), call.args, call.keywords))


def run_script(component: Callable[..., None] | Mapping[str, Callable[..., None]]) -> None:
    """Run a function, or one of several by name, with the arguments of the command line once Fire understands them all.

    Raises:
        SystemExit: help is asked for and printed, or the usage, for Fire does not understand.
    """
    understood: list[functools.partial[None]] = []
    if isinstance(component, Mapping):
        fire.Fire({name: _later(command, understood) for name, command in component.items()})
    else:
        fire.Fire(_later(component, understood))
    for call in understood:
        call()


def _later(command: Callable[..., T], calls: list[functools.partial[T]]) -> Callable[..., None]:
    """What Fire may call in a command's place: it keeps the call for later."""

    @functools.wraps(command)
    def keep(*values: Any, **options: Any) -> None:
        calls.append(functools.partial(command, *values, **options))

    return keep


def _as_texts(arguments: Sequence[str]) -> list[str]:
    """Arguments in which a value that Fire would take for a number or a list is quoted: 1.0, [x].nii.gz."""
    texts = []
    for argument in arguments:
        if _FLAG.match(argument):
            name, equals, value = argument.partition("=")
            name = "--output_dir" if name == "-o" else name  # to Fire it could be --overwrite too
            texts.append(name + equals + _quoted(value))
        else:
            texts.append(_quoted(argument))
    return texts


def _quoted(value: str) -> str:
    return value if DefaultParseValue(value) == value else repr(value)


def _values(signature: inspect.Signature, values: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the name of their parameter; Fire makes True of an option without a value."""
    given = signature.bind(*values, **options).arguments
    for name, value in given.items():
        if signature.parameters[name].default is not False:
            if isinstance(value, bool):
                raise ValueError(f"--{name} must be followed by its value; received none.")
        elif str(value) in ("True", "False"):
            given[name] = str(value) == "True"
        else:
            raise ValueError(f"--{name} must be True or False, not {value!r}: write --{name} at the end, or =True.")
    return given
