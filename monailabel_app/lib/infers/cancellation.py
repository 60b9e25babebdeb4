"""How long each step of an inference takes, and whether anybody still waits for it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from custom.inferers.progress import WindowProgress

#: Set by whoever waits for an answer, to say that nobody does any more.
cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)


class Cancelled(RuntimeError):
    """Nobody waits for this answer any more."""


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
    """Stops between two windows when nobody waits any more."""

    def __init__(self, event: threading.Event | None) -> None:
        super().__init__()
        self.event = event

    def check(self) -> None:
        if self.event is not None and self.event.is_set():
            raise Cancelled("The request was cancelled.")

    @contextmanager
    def volume(self, image: torch.Tensor, *, windows: int, prompts: int = 1) -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            self.check()

        self.check()
        yield advance
