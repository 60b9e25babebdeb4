"""Inference over many images, one of which may be bad."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys

from custom.engines.report import RunReport
from custom.outputs.result_folder import OutputError
from custom.utils.errors import root_cause
from custom.utils.memory import NotEnoughMemory, is_out_of_memory

logger = logging.getLogger(__name__)


class ImagesFailed(RuntimeError):
    """Some images of a run were not segmented; the others were."""


class FaultTolerantEvaluator(SupervisedEvaluator):
    """MONAI's SupervisedEvaluator that goes on to the next image where one cannot be segmented.

    A single image's error is raised as it is. Of several images, each failure is logged when it happens and listed
    with its reason in the error that ends the run. An output folder that cannot be written ends the run at once, for it
    would fail every image; so does Ctrl-C, with exit code 130. The data loader must yield the items of a
    ``RequestDataset`` one by one, in their order.

    Args:
        report: receives the status of each request.

    Raises:
        ImagesFailed: after the last of several images, where some failed.
    """

    data_loader: Any

    def __init__(self, *args: Any, report: RunReport, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.report = report

    def run(self, global_epoch: int = 1) -> None:
        """Segment every image."""
        self.logger.setLevel(logging.CRITICAL)  # Ignite would announce, twice, the error that is raised anyway
        self.failures: dict[str, str] = {}
        requests = self.requests = self.data_loader.dataset.data
        self.working: tuple[int, tuple[int, int] | None] | None = None
        shared = os.path.commonpath([Path(request.image).parent for request in requests]) if requests else ""
        self.names = [os.path.relpath(request.image, shared) for request in requests]
        if len(set(self.names)) < len(requests):  # prompts for one image
            self.names = [f"{name} ({request.prompt.text})" for name, request in zip(self.names, requests, strict=True)]
        self.statuses: dict[str, dict[str, Any]] = {
            request.output_name: {"status": "pending", "seconds": None, "reason": None} for request in requests
        }
        self.alone = len(self.report.requests) == idist.get_world_size() == 1
        self.since = time.monotonic()
        loader = self.data_loader
        try:
            with _interrupts() as received:
                self.data_loader = _items_or_errors(loader, received)
                if requests:
                    super().run(global_epoch)
        except OutputError:
            self._report_early()
            raise
        except KeyboardInterrupt:
            self._note_written()
            self._report_early()
            done = sum(found["status"] == "done" for found in self.statuses.values())
            logger.warning("Interrupted; %d of %d images were segmented.", done, len(requests))
            raise SystemExit(130) from None
        finally:
            self.data_loader = loader
        self.report.write(self.statuses)
        if self.failures:
            raise ImagesFailed(
                f"{len(requests) - len(self.failures)} of {len(requests)} segmented; "
                + "; ".join(f"{name}: {reason}" for name, reason in self.failures.items())
            )

    def _report_early(self) -> None:
        """Report at an early end; one process of several cannot, for it would wait for the others."""
        if idist.get_world_size() == 1:
            with suppress(OSError):
                self.report.write(self.statuses)

    def _note_written(self) -> None:
        """Note the result that was written, where Ctrl-C came before that was noted."""
        if self.working is not None:
            number, before = self.working
            request = self.requests[number]
            pending = self.statuses[request.output_name]["status"] == "pending"
            if pending and self.report.written(request) not in (None, before):
                self._note(number, "done")

    def _note(self, number: int, status: str, reason: str | None = None) -> None:
        """Keep the status of a request, and how long it took since the one before."""
        name, now = self.requests[number].output_name, time.monotonic()
        self.statuses[name] = {"status": status, "seconds": round(now - self.since, 2), "reason": reason}
        self.since = now

    def _register_decollate(self) -> None:
        """Nothing was collated: the item and its ``Segmentation`` go to the postprocessing as they are."""

        def wrap(engine: Any) -> None:
            engine.state.output = [{CommonKeys.PRED: engine.state.output[CommonKeys.PRED]}]
            engine.state.batch = [engine.state.batch]

        self.add_event_handler(IterationEvents.MODEL_COMPLETED, wrap)

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, Any]:
        number = engine.state.iteration - 1
        self.working = number, self.report.written(self.requests[number])
        try:
            if isinstance(batchdata, Exception):
                raise batchdata
            result: dict[str, Any] = super()._iteration(engine, batchdata)
            self._note(number, "done")
            return result
        except Exception as error:
            cause = root_cause(error)
            out_of_memory = is_out_of_memory(cause) and not isinstance(cause, NotEnoughMemory)
            if out_of_memory:
                cause = NotEnoughMemory(
                    f"There must be memory for this image, and there is not ({cause}). Close other programs, or take a "
                    "machine with more memory."
                )
            name, reason = self.names[number], str(cause) or type(cause).__name__
            self._note(number, "failed", reason)
            if isinstance(cause, OutputError):
                raise cause from None  # MONAI wraps it
            if self.alone and out_of_memory:
                raise cause from error
            if self.alone:
                raise
            self.failures[name] = reason
            logger.error("Not segmented: %s: %s", name, reason)
            engine.state.batch, engine.state.output = [], []
            del batchdata, cause  # else frames and errors would hold each other, and an image with them
            return {}


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Yield a list that receives each Ctrl-C, for Python drops a KeyboardInterrupt that is raised in a finaliser."""
    received: list[int] = []
    heard = signal.getsignal(signal.SIGINT)
    if heard is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield received
        return

    def interrupt(number: int, frame: Any) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, heard)


def _items_or_errors(loader: Any, interrupts: Sequence[int]) -> Iterator[Any]:
    """What a data loader yields, or in its place the error that loading it raised; nothing more after an interrupt."""
    batches = iter(loader)
    for _ in range(len(loader)):
        try:
            batch = next(batches)
        except Exception as error:
            batch = error
        if interrupts:
            raise KeyboardInterrupt
        yield batch
        batch = None  # before the next one takes memory
