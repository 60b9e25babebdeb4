"""Which error of a chain a user is told."""

import sys
from collections.abc import Collection
from types import TracebackType


def install_excepthook() -> None:
    """Let an uncaught error end with the message of its first cause.

    MONAI wraps an error of a transform or a component several times, and the last line a user sees would be
    "Failed to instantiate component ...". The traceback is printed as ever.
    """

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        cause = root_cause(error)
        if cause is not error:
            print(f"\n{error_summary(error)}", file=sys.stderr)

    sys.excepthook = report


def error_summary(error: BaseException) -> str:
    """What a user is told at the end of a run that failed: the kind and the message of the first cause."""
    cause = root_cause(error)
    return f"{type(cause).__name__}: {cause}"


def root_cause(error: BaseException, *, packages: Collection[str] = ("custom",)) -> BaseException:
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
