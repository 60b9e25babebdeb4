"""Command lines of ``scripts/``: Python Fire reads the arguments, all of them before any work."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import fire


def run_script(component: Callable[..., None] | Mapping[str, Callable[..., None]]) -> None:
    """Run a function, or one of several by name, with the arguments of the command line.

    Fire alone calls a function first and reports an unknown option afterwards; here the call waits until Fire has
    accepted every argument.

    Raises:
        SystemExit: help was requested, or Fire refuses an argument.
    """
    calls: list[functools.partial[None]] = []

    def deferred(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def defer(*values: Any, **options: Any) -> None:
            calls.append(functools.partial(function, *values, **options))

        return defer

    if isinstance(component, Mapping):
        fire.Fire({name: deferred(function) for name, function in component.items()})
    else:
        fire.Fire(deferred(component))
    for call in calls:
        call()
