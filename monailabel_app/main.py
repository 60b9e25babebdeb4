"""Deep FiLM in MONAI Label: type an organ's name, get it, correct it, train on it. See docs/monai_label.md."""

import logging
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom.utils.compat import mend_torchvision

mend_torchvision()  # before MONAI Label imports torchvision

from lib.activelearning.uncertainty import First, Random, Uncertainty, UncertaintyScoring  # noqa: E402
from lib.bundles import find_bundles  # noqa: E402
from lib.compat import die_with_the_server, keep_patients_out_of_the_log  # noqa: E402
from lib.datastore.opening import DicomWebStudies, LocalStudies, open_studies  # noqa: E402
from lib.errors import RequestError  # noqa: E402
from lib.infers.batch import PromptedBatchTask  # noqa: E402
from lib.infers.prompted import PromptedInferTask  # noqa: E402
from lib.infers.result import in_order  # noqa: E402
from lib.infers.volume_cache import VolumeCache  # noqa: E402
from lib.schemas import InferFields  # noqa: E402
from lib.trainers.fine_tune import FineTuneTask  # noqa: E402
from monailabel.interfaces.app import MONAILabelApp  # noqa: E402
from monailabel.interfaces.datastore import Datastore  # noqa: E402
from monailabel.interfaces.tasks.strategy import Strategy  # noqa: E402
from monailabel.utils.sessions import SessionInfo  # noqa: E402

import custom  # noqa: E402
from custom.anatomy.loading import load_class_set  # noqa: E402
from custom.imageio.dicom_seg import write_dicom_seg  # noqa: E402
from custom.inferers.feature_cache import FeatureCache  # noqa: E402
from custom.utils.allocator import share_memory_between_threads  # noqa: E402

logger = logging.getLogger(__name__)

#: What ``--conf`` understands, with defaults.
CONF = {
    "models": "film_swinunetr",  # bundles to serve, separated by commas
    "hosts": "",  # names under which other computers may reach the server; none: this computer only
    "concurrency": "1",  # inferences that run at once
    "cache_gib": "2",  # memory for prepared volumes
    "features_gib": "4",  # memory for encoded windows: a second prompt on an image does not encode those again
    "text_encoder": "minilm",  # of bundles without weights
    "server_mode": "false",  # MONAI Label's own
}


class DeepFiLMApp(MONAILabelApp):
    """MONAI Label app that serves exported Deep FiLM bundles.

    Args:
        app_dir: this folder.
        studies: a folder of NIfTI images, or the address of a DICOMweb server.
        conf: see ``CONF``.

    Raises:
        ValueError: an unknown entry of ``conf``, or a bundle that cannot be served.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        keep_patients_out_of_the_log()
        if "monailabel.app" not in sys.modules:  # a task's own process
            die_with_the_server()
        if unknown := sorted(conf.keys() - CONF.keys()):
            raise ValueError(f"--conf must be one of {', '.join(CONF)}, not {', '.join(unknown)}.")
        self.settings = CONF | dict(conf)
        for key, lowest in (("concurrency", 1), ("cache_gib", 0), ("features_gib", 0)):
            _check_number(key, self.settings[key], lowest)
        share_memory_between_threads()  # inferences run in threads
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=self.settings,
            name="Deep FiLM",
            description="Text-guided segmentation of organs and tumours in CT. Research use only.",
            version=custom.__version__,
        )
        self._auto_update_scoring = False  # it would run inference over all images at every start
        keep_patients_out_of_the_log()

    def init_datastore(self) -> LocalStudies | DicomWebStudies:
        return open_studies(self.studies, class_set=load_class_set())

    def init_infers(self) -> dict[str, PromptedInferTask]:
        self.folders = find_bundles(
            self.settings["models"], Path(self.app_dir) / "model", text_encoder=self.settings["text_encoder"]
        )
        volumes = VolumeCache(limit=int(float(self.settings["cache_gib"]) * 2**30))
        slots = threading.BoundedSemaphore(int(self.settings["concurrency"]))
        features = FeatureCache(gib=float(self.settings["features_gib"]))
        return {
            name: PromptedInferTask(folder, volumes=volumes, features=features, slots=slots)
            for name, folder in self.folders.items()
        }

    def init_trainers(self) -> dict[str, FineTuneTask]:
        encoder = self.settings["text_encoder"]
        return {name: FineTuneTask(folder, text_encoder=encoder) for name, folder in self.folders.items()}

    def init_strategies(self) -> dict[str, Strategy]:
        return {"random": Random(), "first": First(), "uncertainty": Uncertainty()}

    def init_scoring_methods(self) -> dict[str, UncertaintyScoring]:
        return {"uncertainty": UncertaintyScoring(self._infers)}

    def init_batch_infer(self) -> PromptedBatchTask:
        return PromptedBatchTask()

    def on_init_complete(self) -> None:
        """Called by the server, and only there: take its requests."""
        super().on_init_complete()
        from lib.endpoints.routes import install

        server = sys.modules["monailabel.app"].app
        install(server, hosts=[host.strip() for host in self.settings["hosts"].split(",") if host.strip()])
        keep_patients_out_of_the_log()

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Answer one image of the datastore and keep the answer as its label ``original``, as a batch does.

        Args:
            request: ``model``, ``image`` (its id) and the fields of ``InferFields``.
            datastore: where the image is, and where its label goes; by default the app's own.
        """
        fields = InferFields(**{key: request[key] for key in InferFields.model_fields if key in request})
        store = datastore or self.datastore()
        path, report = self.segment(str(request["model"]), fields, {"image": request["image"]}, store)
        try:
            store.save_label(request["image"], str(path), "original", {"model": request["model"], "params": report})
        except BaseException:
            path.unlink()
            raise
        return {"label": request["image"], "tag": "original", "file": str(path), "params": report}

    def segment(
        self, model: str, fields: InferFields, source: Mapping[str, Any], datastore: Datastore | None = None
    ) -> tuple[Path, dict[str, Any]]:
        """A temporary label map and the report of one image.

        Args:
            model: name of a served bundle.
            fields: what is asked.
            source: ``image`` (an id of the datastore), or ``session`` (an id), or ``file`` (an uploaded image).
            datastore: in place of the app's own.

        Raises:
            ValueError: see ``PromptedInferTask.answer``.
            FileNotFoundError: no such image.
        """
        store = datastore or self.datastore()
        image = self._image(source, store)
        path, report = self._infers[model]({"image": str(image), **fields.model_dump()})
        return Path(path), report

    def dicom_seg(self, model: str, fields: InferFields, source: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
        """A temporary DICOM-SEG of what was found in a series, and the report; else as ``segment``."""
        store = self.datastore()
        if not isinstance(store, DicomWebStudies) or not source.get("image"):
            raise RequestError("dicom_seg needs a DICOM series: start the server on a DICOMweb address.")
        image = self._image(source, store)
        answer = self._infers[model].answer(str(image), fields)
        answered_by = answer.report["model"]
        with tempfile.NamedTemporaryFile(suffix=".dcm", delete=False) as file:
            path = Path(file.name)
        try:
            write_dicom_seg(
                {item: answer.masks[item] for item in in_order(answer.masks)},
                path,
                affine=answer.image.affine,
                series_dir=store.series_dir(source["image"]),
                model_name=model,
                model_version=f"{answered_by['version']}, weights {answered_by['weights']}",
            )
        except BaseException:
            path.unlink()
            raise
        return path, answer.report

    def check_prompt(self, model: str, prompt: str) -> None:
        """Refuse a prompt that a model cannot obey, before a process is started for it.

        Raises:
            ValueError: no such model, or see ``ResolvePromptd``.
        """
        if model not in self._infers:
            raise RequestError(f"model must be one of {', '.join(self._infers)}.")
        self._infers[model].check_prompt(prompt)

    def models(self) -> list[str]:
        """Names of the models."""
        return list(self._infers)

    def trainers(self) -> list[str]:
        """Names of the models that can be trained."""
        return list(self._trainers)

    def strategies(self) -> list[str]:
        """Names of the strategies."""
        return list(self._strategies)

    def scorings(self) -> list[str]:
        """Names of the scoring methods."""
        return list(self._scoring_methods)

    def session(self, name: str) -> SessionInfo:
        """A session that has not expired.

        Raises:
            FileNotFoundError: there is none.
        """
        found = self.sessions().get_session(name, update_ts=False)
        if found and found.last_access_ts + found.expiry < time.time():
            self.sessions().remove_session(name)
            found = None
        if not found:
            raise FileNotFoundError("There is no session of that id, or it has expired: upload the image again.")
        return self.sessions().get_session(name)

    def cleanup_sessions(self) -> None:
        """Remove sessions that have expired, those of an earlier server too."""
        try:
            self.sessions().remove_expired()
        except AttributeError:  # MONAI Label's answer to a folder without a description
            logger.warning("The folder of sessions, %s, holds something else.", self.sessions().store_path)

    def _image(self, source: Mapping[str, Any], datastore: Datastore) -> Path:
        if source.get("file"):
            return Path(source["file"])
        if source.get("session"):
            return Path(self.session(source["session"]).image)
        if source.get("image") not in datastore.list_images():
            raise FileNotFoundError("There is no image of that id in the datastore.")
        return Path(datastore.get_image_uri(source["image"]))


def _check_number(key: str, value: str, lowest: int) -> None:
    """Refuse an entry of ``--conf`` that is no number of at least ``lowest``."""
    kind = int if key == "concurrency" else float
    try:
        right = kind(value) >= lowest
    except ValueError:
        right = False
    if not right:
        raise ValueError(f"--conf {key} must be a number of at least {lowest}, not {value!r:.80}.")
