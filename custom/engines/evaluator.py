"""Inference over many images, one of which may be bad."""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys

from custom.engines.report import RunReport
from custom.engines.requests import Request
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
    ``RequestDataset`` one by one, in their order. ``report`` receives the status of each request.

    Raises:
        ImagesFailed: after the last of several images, where some failed.
    """

    data_loader: Any

    def __init__(self, *args: Any, report: RunReport, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.report = report

    def run(self, global_epoch: int = 1) -> None:
        self.logger.setLevel(logging.CRITICAL)  # Ignite would announce, twice, the error that is raised anyway
        self.failures: dict[str, str] = {}
        requests: Sequence[Request] = self.data_loader.dataset.data
        self.working: tuple[Request, tuple[int, int] | None] | None = None
        shared = os.path.commonpath([Path(request.image).parent for request in requests]) if requests else ""
        names = [os.path.relpath(request.image, shared) for request in requests]
        if len(set(names)) < len(requests):  # prompts for one image
            names = [f"{name} ({request.prompt.text})" for name, request in zip(names, requests, strict=True)]
        self.queue = list(zip(names, requests, strict=True))
        self.report.start(requests)
        self.alone = len(self.report.rows) == idist.get_world_size() == 1
        loader = self.data_loader
        try:
            with _interrupts() as received:
                self.data_loader = _items_or_errors(loader, received)
                if requests:
                    super().run(global_epoch)
        except (OutputError, KeyboardInterrupt) as end:
            self._report_early()
            if isinstance(end, OutputError):
                raise
            done = sum(row["status"] == "done" for row in self.report.rows.values())
            logger.warning("Interrupted; %d of %d images were segmented.", done, len(requests))
            raise SystemExit(130) from None
        finally:
            self.data_loader = loader
        self.report.write()
        if self.failures:
            raise ImagesFailed(
                f"{len(requests) - len(self.failures)} of {len(requests)} segmented; "
                + "; ".join(f"{name}: {reason}" for name, reason in self.failures.items())
            )

    def _report_early(self) -> None:
        """Report at an early end, with the result that was written where Ctrl-C came before that was noted.

        One process of several cannot report, for it would wait for the others.
        """
        if self.working is not None:
            request, before = self.working
            pending = self.report.rows[request.output_name]["status"] == "pending"
            if pending and self.report.written(request) not in (None, before):
                self.report.note(request, "done")
        if idist.get_world_size() == 1:
            with suppress(OSError):
                self.report.write()

    def _register_decollate(self) -> None:
        """Nothing was collated: the item and its ``Segmentation`` go to the postprocessing as they are."""

        def wrap(engine: Any) -> None:
            engine.state.output = [{CommonKeys.PRED: engine.state.output[CommonKeys.PRED]}]
            engine.state.batch = [engine.state.batch]

        self.add_event_handler(IterationEvents.MODEL_COMPLETED, wrap)

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, Any]:
        name, request = self.queue[engine.state.iteration - 1]
        self.working = request, self.report.written(request)
        try:
            if isinstance(batchdata, Exception):
                raise batchdata
            result: dict[str, Any] = super()._iteration(engine, batchdata)
            self.report.note(request, "done")
            return result
        except Exception as error:
            cause = root_cause(error)
            out_of_memory = is_out_of_memory(cause) and not isinstance(cause, NotEnoughMemory)
            if out_of_memory:
                cause = NotEnoughMemory(
                    f"There must be memory for this image, and there is not ({cause}). Close other programs, or take a "
                    "machine with more memory."
                )
            reason = str(cause) or type(cause).__name__
            self.report.note(request, "failed", reason)
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
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ours = default and threading.current_thread() is threading.main_thread()

    def interrupt(number: int, frame: Any) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    if ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield received
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


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
