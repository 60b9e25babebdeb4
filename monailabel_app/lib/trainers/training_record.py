"""Statistics of a bundle's latest training, correct at any moment and however it ended."""

import json
import math
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.utils import CommonKeys

from custom.handlers.checkpoint import BestWeights
from custom.utils.files import atomic_write
from lib.errors import cause_of, message_of


class TrainingFailed(RuntimeError):
    """A training ended early; the message and the traceback, which reach the log, name no file."""


class TrainingRecord:
    """The file ``stats.json`` in the folder of trainings, and a lock that a training's process holds until it ends.

    ``status`` is "running", "done", "failed" or "stopped"; "running" without the lock means killed. Attached to a
    trainer, it records ``epoch``, ``train_loss`` and ``best_metric``, and prints a line for every epoch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "stats.json"
        self._stats: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """The latest training's statistics; {} before the first."""
        if not self.file.is_file():
            return {}
        with suppress(Timeout), self._lock().acquire(blocking=False):  # which the process of a training holds
            stats = self._read()
            return stats | {"status": "stopped"} if stats["status"] == "running" else stats
        return self._read()

    def _read(self) -> dict[str, Any]:
        return dict(json.loads(self.file.read_text(encoding="utf-8")))

    @contextmanager
    def training(self, *, total_epochs: int) -> Iterator[None]:
        """Hold the lock while the block trains, and record how it ends.

        Raises:
            ValueError: another training is running.
            TrainingFailed: the block raised; ``error.txt`` beside the file has the traceback.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            held = self._lock().acquire(timeout=2)  # readers hold it for an instant
        except Timeout:
            raise ValueError("One training of a model at a time: this one is being trained. Stop that first.") from None
        with held:
            begin = time.time()
            self._stats = {"status": "running", "start_ts": int(begin), "epoch": 0, "total_epochs": total_epochs}
            (self.folder / "error.txt").unlink(missing_ok=True)
            self.update(installed=False)
            try:
                yield
            except (KeyboardInterrupt, SystemExit):
                self.update(status="stopped")
                raise
            except Exception as error:
                (self.folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
                self.update(status="failed", error=message_of(error))
                raise TrainingFailed(
                    f"The training failed ({type(cause_of(error)).__name__}): the reason is in the model's training "
                    "statistics (train_stats of /info), the traceback in models/training/error.txt of its bundle."
                ) from None
            self.update(status="done", total_time=round(time.time() - begin, 1))

    def update(self, **entries: Any) -> None:
        """Add or replace entries of the file, atomically; numbers that are not finite are left out."""
        stats = self._stats | entries
        self._stats = {key: x for key, x in stats.items() if not isinstance(x, float) or math.isfinite(x)}
        with atomic_write(self.file) as temporary:
            temporary.write_text(json.dumps(self._stats, indent=2) + "\n", encoding="utf-8")

    def attach(self, trainer: Engine, *, best_weights: BestWeights) -> None:
        """Record the epochs of a trainer; ``best_weights`` has the best validation score."""
        Average(lambda output: float(output[0][CommonKeys.LOSS])).attach(trainer, "train_loss")
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._report, best_weights)

    def _report(self, trainer: Engine, best_weights: BestWeights) -> None:
        epoch, loss, best = trainer.state.epoch, trainer.state.metrics["train_loss"], best_weights.best
        self.update(epoch=epoch, train_loss=loss, best_metric=best)
        score = f", best mean Dice {best:.4f}" if math.isfinite(best) else ""
        print(f"Epoch {epoch} of {trainer.state.max_epochs}: loss {loss:.4f}{score}", flush=True)

    def _lock(self) -> FileLock:
        return FileLock(self.folder / ".lock")
