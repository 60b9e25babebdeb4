"""A bundle as a program: where it lies, and how it reports an error."""

import json
import sys
from collections.abc import Collection
from pathlib import Path
from types import TracebackType


def find_bundle_root(name: str) -> str:
    """Folder of the bundle ``name``, as an absolute path.

    Looked for, in this order: the folder whose ``configs/`` holds a config that the command line names, the folder that
    holds the package ``custom`` (an exported bundle carries its own copy), the working directory, ``bundles/<name>``
    below it, and ``bundles/<name>`` beside the package (a checkout).
    A folder counts as the bundle when its ``configs/metadata.json`` carries that name.

    Raises:
        FileNotFoundError: there is none; give ``--bundle_root``.
    """
    from custom.command_line import config_files  # which imports MONAI

    here = Path.cwd()
    house = Path(__file__).resolve().parent.parent
    named = [file.resolve().parent.parent for file in config_files()]
    candidates = [*named, house, here, here / "bundles" / name, house / "bundles" / name]
    for folder in candidates:
        metadata = folder / "configs" / "metadata.json"
        if metadata.is_file() and json.loads(metadata.read_text(encoding="utf-8")).get("name") == name:
            return str(folder)
    raise FileNotFoundError(
        f"No bundle {name!r} (a folder whose configs/metadata.json carries that name) in "
        f"{', '.join(map(str, candidates))}: run from the repository's root or the bundle's folder, or pass "
        "--bundle_root."
    )


class Fault(ValueError):
    """What is wrong with a bundle, and how to mend it."""


def bundle_name(bundle_dir: str | Path) -> str:
    """Name of the bundle in a folder, from its ``configs/metadata.json``.

    Raises:
        FileNotFoundError: the folder is no bundle.
    """
    metadata = Path(bundle_dir) / "configs" / "metadata.json"
    if not metadata.is_file():
        raise FileNotFoundError(f"{bundle_dir} is no bundle: it has no configs/metadata.json.")
    return str(json.loads(metadata.read_text(encoding="utf-8"))["name"])


def end_with_the_cause() -> None:
    """Let an uncaught error end with the message of its first cause.

    MONAI wraps an error of a transform or a component several times, and the last line a user sees would be
    "Failed to instantiate component ...". The traceback is printed as ever.
    """

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        cause = first_cause(error)
        if cause is not error:
            print(f"\n{last_line(error)}", file=sys.stderr)

    sys.excepthook = report


def last_line(error: BaseException) -> str:
    """What a user is told at the end of a run that failed: the kind and the message of the first cause."""
    cause = first_cause(error)
    return f"{type(cause).__name__}: {cause}"


def first_cause(error: BaseException, *, packages: Collection[str] = ("custom",)) -> BaseException:
    """The error that teaches: the first that one of ``packages`` raised, going inwards, else the innermost."""
    while (deeper := error.__cause__ or error.__context__) is not None and not _is_ours(error, packages):
        error = deeper
    return error


def _is_ours(error: BaseException, packages: Collection[str]) -> bool:
    """Whether one of ``packages`` raised the error, so that its message is the one that teaches."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    package, dot, _ = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")
    return bool(dot) and package in packages
