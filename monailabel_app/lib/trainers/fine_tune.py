"""Fine-tune a served bundle on the finished labels, by the bundle's own configs."""

import json
import logging
import math
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_map

from custom.anatomy.class_set import ClassSet
from custom.bundle.root import existing_settings
from custom.datasets.dataset_json import Cases
from custom.utils.files import atomic_write, save_safetensors, save_state
from custom.weights.header import read_header, write_metadata
from custom.weights.io import find_state, read_weights
from custom.weights.volume import training_settings
from lib.schemas import TrainFields, read_fields
from lib.trainers.finished_labels import FinishedLabels, write_dataset
from lib.trainers.training_record import TrainingRecord

#: Validations of a training, spread over its epochs.
VALIDATIONS = 5


class FineTuneTask(TrainTask):
    """Fine-tune the weights that a bundle serves, and serve the result if it is no worse.

    Served and new weights are scored on the same validation cases: mean Dice, each class prompted alone, averaged over
    classes. The new ones replace ``models/model.safetensors`` unless their score is lower; the old ones are kept as
    ``model-<time>.safetensors``. A bundle without weights is trained from scratch, with the given text encoder.

    A run writes into ``models/training/<time>``, which the next run removes. Killing it changes nothing that is served.
    """

    def __init__(self, bundle_dir: Path, *, text_encoder: str) -> None:
        self.text_encoder = text_encoder
        self.bundle_dir = Path(bundle_dir).resolve()
        if "#" in str(self.bundle_dir):
            raise ValueError(
                f"The folder of a bundle must not hold #, which MONAI reads as ::, not {self.bundle_dir}. Rename it."
            )
        self.served = self.bundle_dir / "models" / "model.safetensors"
        self.record = TrainingRecord(self.bundle_dir / "models" / "training")
        super().__init__(f"Fine-tune {self.bundle_dir.name} on the finished labels")

    def config(self) -> dict[str, Any]:
        """The options that a client may set, with defaults; devices by MONAI Label's names."""
        numbers = TrainFields().model_dump(include={"max_epochs", "val_split", "learning_rate"})
        return numbers | {"device": list(device_map())}

    def stats(self) -> dict[str, Any]:
        """The latest training: ``status``, ``epoch``, ``total_epochs``, ``best_metric``, ...; {} before the first."""
        return self.record.read()

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train on the finished labels of a datastore, and return the statistics without names of images.

        ``request`` may have the options that ``config`` lists; other entries are ignored.

        Raises:
            ValueError: an option out of range, or another training of this bundle is running.
            TrainingFailed: anything else.
        """
        options = read_options(request)
        with self.record.training(total_epochs=options["max_epochs"]), ExitStack() as afterwards:
            afterwards.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.ERROR)  # libraries name files; errors are raised and recorded all the same
            self._train(options, datastore)
        return {key: value for key, value in self.stats().items() if key != "left_out"}

    def _train(self, options: Mapping[str, Any], datastore: Datastore) -> None:
        for earlier in self.record.folder.glob("[0-9]*T[0-9]*"):
            shutil.rmtree(earlier)
        run_dir = self.record.folder / datetime.now().strftime("%Y%m%dT%H%M%S")
        class_set: ClassSet = self._workflow("train").parser.get_parsed_content("class_set")
        labels = write_dataset(datastore, run_dir / "data", class_set, val_split=options["val_split"])
        new_names = Cases(run_dir / "data", class_set).labelled_classes
        counts = {"training_cases": len(labels.training), "validation_cases": len(labels.validation)}
        self.record.update(labels=new_names, left_out=labels.left_out, **counts)
        print(
            f"{len(labels.training)} finished labels to train on and {len(labels.validation)} to validate on, "
            f"{len(labels.left_out)} left out. Labelled: {', '.join(new_names)}.",
            flush=True,
        )
        folders = {"bundle_root": self.bundle_dir, "dataset_dir": run_dir / "data", "output_dir": run_dir}
        common = {key: str(folder) for key, folder in folders.items()} | {"device": options["device"], "num_workers": 0}
        old = self._score(self.served, common) if self.served.is_file() else math.nan
        self.record.update(old_score=old)
        self._run(class_set, new_names, options, common | {"ckpt_dir": str(run_dir)})
        (run_dir / "last.pt").unlink()
        self._decide(run_dir / "model.safetensors", old, labels)

    def _run(
        self, class_set: ClassSet, names: list[str], options: Mapping[str, Any], overrides: Mapping[str, Any]
    ) -> None:
        """Train into ``ckpt_dir``; the header goes on to name the classes that the served weights know."""
        config = json.loads((self.bundle_dir / "configs" / "train.json").read_text(encoding="utf-8"))
        handlers = [item for item in config["train"]["handlers"] if item["_target_"] != "custom.handlers.Progress"]
        settings = {
            **overrides,
            **{key: options[key] for key in ("max_epochs", "learning_rate")},
            "val_interval": -(-options["max_epochs"] // VALIDATIONS),
            "train::handlers": handlers,
            "train::dataset::progress": False,
        }
        if self.served.is_file():
            header = read_header(self.served)
            known = {*header["volume"]["trained_classes"], *names}
            classes = [name for name in class_set.names if name in known]
            settings |= existing_settings(config, training_settings(header))
            settings |= {"pretrained": str(self.served), "trained_classes": classes}
        elif "text_encoder" in config:
            settings["text_encoder"] = self.text_encoder
        workflow = self._workflow("train", **settings)
        workflow.initialize()
        best_weights = workflow.parser.get_parsed_content("train::best_weights")
        self.record.attach(workflow.parser.get_parsed_content("train::trainer"), best_weights=best_weights)
        workflow.run()

    def _score(self, weights: Path, overrides: Mapping[str, Any]) -> float:
        """Mean Dice on the validation cases, as training's validation measures it; NaN if there is none."""
        settings = {"validate::prompt_texts": ["canonical"], "validate::handlers": []}
        workflow = self._workflow(
            "train", "evaluate", **overrides, **settings, weights=str(weights), split="validation"
        )
        workflow.initialize()
        workflow.run()
        return float(workflow.parser.get_parsed_content("validate::evaluator").state.metrics["mean_dice"])

    def _workflow(self, *names: str, **overrides: Any) -> ConfigWorkflow:
        """A workflow of the bundle's configs of these names; no text of a client may be among ``overrides``."""
        files = [str(self.bundle_dir / "configs" / f"{name}.json") for name in names]
        return ConfigWorkflow(config_file=files, workflow_type="train", logging_file=False, **overrides)

    def _decide(self, weights: Path, old: float, labels: FinishedLabels) -> None:
        """Serve the new weights if they are no worse than the old, and report it."""
        new = read_header(weights)["provenance"]["validation"]["mean_dice"] if weights.is_file() else math.nan
        installed = not math.isnan(new) and not new < old
        if installed:
            self._install(weights, labels)
        self.record.update(new_score=new, installed=installed)
        before = "" if math.isnan(old) else f", before {old:.4f}"
        decision = "Installed" if installed else "Not installed, the old weights stay"
        print(f"{decision}: mean Dice {new:.4f}{before}.", flush=True)

    def _install(self, weights: Path, labels: FinishedLabels) -> None:
        """Keep a copy of the served weights, then replace them in one step."""
        started = "from scratch"
        if self.served.is_file():
            kept = self.served.with_name(f"model-{weights.parent.name}.safetensors")
            with atomic_write(kept) as temporary:
                shutil.copyfile(self.served, temporary)
            started = f"from {kept.name}"
        state, header = read_weights(weights)
        described = {"description": f"{len(labels.training)} labels finished in MONAI Label, starting {started}"}
        metadata = write_metadata(header, header["provenance"] | {"data": described})
        plain = find_state(self.served)  # an export's model.pt, which MONAI's own tools load
        save_safetensors(state, self.served, metadata=metadata)
        if plain is not None:
            save_state(state, plain)


def read_options(request: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request, checked by ``read_fields``, with a device as torch names it."""
    known = {key: request[key] for key in TrainFields.model_fields if key in request}
    options = read_fields(TrainFields, known).model_dump(exclude={"client_id", "name"})
    devices = device_map()
    return options | {"device": devices[options["device"] or next(iter(devices))]}
