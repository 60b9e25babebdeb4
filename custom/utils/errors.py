"""The error of a chain that a user is shown."""

import sys
from collections.abc import Collection, Iterator
from traceback import walk_tb
from types import TracebackType


def install_excepthook() -> None:
    """Print the root cause of an uncaught error after its traceback.

    MONAI wraps an error of a transform or a component several times, so that the last line would be "Failed to
    instantiate component ...".
    """

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        if root_cause(error) is not error:
            print(f"\n{error_summary(error)}", file=sys.stderr)

    sys.excepthook = report


def error_summary(error: BaseException) -> str:
    """Kind and message of the root cause of an error."""
    cause = root_cause(error)
    return f"{type(cause).__name__}: {cause}"


def root_cause(error: BaseException, *, packages: Collection[str] = ("custom",)) -> BaseException:
    """The outermost error that one of ``packages`` raised, whose message helps the user most; else the innermost."""
    errors = list(chain(error))
    return next((link for link in errors if _is_ours(link, packages)), errors[-1])


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, what caused that, and so on: each once, for a chain may come back to itself."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _is_ours(error: BaseException, packages: Collection[str]) -> bool:
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    package, dot, _ = str(frames[-1].f_globals.get("__name__", "") if frames else "").partition(".")
    return bool(dot) and package in packages
