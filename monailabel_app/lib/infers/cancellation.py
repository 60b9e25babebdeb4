"""Seconds of each step of an inference, and its cancellation when the client goes away."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from custom.inferers.progress import WindowProgress

#: Set when the client of the current request went away.
cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)


class Cancelled(RuntimeError):
    """The client of this inference went away."""


class Times:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.table: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.table[step] = round(time.monotonic() - start, 2)

    def total(self) -> float:
        return round(time.monotonic() - self.start, 2)


class CancellableProgress(WindowProgress):
    """Raises ``Cancelled`` between two windows once ``event`` is set."""

    def __init__(self, event: threading.Event | None) -> None:
        super().__init__()
        self.event = event

    def check(self) -> None:
        if self.event is not None and self.event.is_set():
            raise Cancelled("The request was cancelled.")

    @contextmanager
    def volume(self, image: torch.Tensor, *, windows: int, prompts: int = 1) -> Iterator[Callable[[int], None]]:
        self.check()
        yield lambda count: self.check()
