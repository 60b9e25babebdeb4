"""Cancellation of an inference when the client goes away."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from custom.inferers.progress import WindowProgress

#: Set when the client of the current request went away.
cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)


class Cancelled(RuntimeError):
    """The client of this inference went away."""


def raise_if_cancelled() -> None:
    """Raise ``Cancelled`` once the client of the current request went away."""
    if (event := cancelled.get()) and event.is_set():
        raise Cancelled("The request was cancelled.")


class CancellableProgress(WindowProgress):
    """Raises ``Cancelled`` between two windows."""

    @contextmanager
    def volume(self, image: torch.Tensor, *, windows: int, prompts: int = 1) -> Iterator[Callable[[int], None]]:
        raise_if_cancelled()
        yield lambda count: raise_if_cancelled()
