"""Inference over many images, one of which may be bad."""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from monai.data import decollate_batch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys

from custom.bundle import first_cause
from custom.outputs import OutputError

logger = logging.getLogger(__name__)


class ImagesFailed(RuntimeError):
    """Some images of a run were not segmented; the others were."""


class ImageByImageEvaluator(SupervisedEvaluator):
    """MONAI's SupervisedEvaluator that goes on to the next image where one cannot be segmented.

    A single image's error is raised as it is. Of several images, each failure is logged when it happens and listed
    with its reason in the error that ends the run. An output folder that cannot be written ends the run at once, for it
    would fail every image; so does Ctrl-C, with exit code 130. The data loader must yield one image at a time, in the
    order of its dataset's ``data``.

    Raises:
        ImagesFailed: after the last of several images, where some failed.
    """

    data_loader: Any

    def run(self, global_epoch: int = 1) -> None:
        """Segment every image."""
        self.logger.setLevel(logging.CRITICAL)  # Ignite would announce, twice, the error that is raised anyway
        self.failures: dict[str, str] = {}
        images = [str(item[CommonKeys.IMAGE]) for item in self.data_loader.dataset.data]
        shared = os.path.commonpath([Path(image).parent for image in images])
        names = self.names = [os.path.relpath(image, shared) for image in images]
        loader, self.data_loader = self.data_loader, _ItemsOrErrors(self.data_loader)
        try:
            super().run(global_epoch)
        except KeyboardInterrupt:
            done = max(self.state.iteration - 1, 0) - len(self.failures)
            logger.warning("Interrupted; %d of %d images were segmented.", done, len(names))
            raise SystemExit(130) from None
        finally:
            self.data_loader = loader
        if self.failures:
            raise ImagesFailed(
                f"{len(names) - len(self.failures)} of {len(names)} segmented; "
                + "; ".join(f"{name}: {reason}" for name, reason in self.failures.items())
            )

    def _register_decollate(self) -> None:
        """Take batches apart as MONAI does; a prediction is a ``Segmentation``, of the one image of the batch."""

        def take_apart(engine: Any) -> None:
            engine.state.batch = decollate_batch(engine.state.batch, detach=True)
            prediction = engine.state.output.pop(CommonKeys.PRED)
            [output] = decollate_batch(engine.state.output, detach=True)
            engine.state.output = [output | {CommonKeys.PRED: prediction}]

        self.add_event_handler(IterationEvents.MODEL_COMPLETED, take_apart)

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, Any]:
        try:
            if isinstance(batchdata, Exception):
                raise batchdata
            result: dict[str, Any] = super()._iteration(engine, batchdata)
            return result
        except OutputError:
            raise
        except Exception as error:
            if len(self.names) == 1:
                raise
            name = self.names[engine.state.iteration - 1]
            self.failures[name] = str(first_cause(error)) or type(error).__name__
            logger.error("Not segmented: %s: %s", name, self.failures[name])
            engine.state.batch, engine.state.output = [], []
            return {}


class _ItemsOrErrors:
    """What a data loader yields, or in its place the error that loading it raised."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        for _ in range(len(self)):
            try:
                batch = next(batches)
            except Exception as error:
                batch = error
            yield batch
