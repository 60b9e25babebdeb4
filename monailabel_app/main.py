"""Deep FiLM in MONAI Label: segment by prompt, correct, fine-tune. See docs/monai_label.md."""

import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.activelearning.uncertainty import STRATEGIES, UncertaintyScoring
from lib.bundles import find_bundles
from lib.compat import exit_with_server, keep_patient_data_out_of_logs
from lib.datastore import open_datastore
from lib.datastore.dicomweb import DICOMSeriesDatastore
from lib.datastore.local import NiftiDatastore, problem_of
from lib.errors import RequestError
from lib.infers.prompted import PromptedBatchTask, PromptedInferTask
from lib.infers.volume_cache import VolumeCache
from lib.schemas import AppSettings, InferFields, read_fields
from lib.temporary import temporary_file
from lib.trainers.fine_tune import FineTuneTask
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.utils.sessions import SessionInfo

import custom
from custom.anatomy.loading import load_class_set
from custom.imageio.dicom_seg import write_dicom_seg
from custom.imageio.dicom_series import read_series
from custom.inferers.feature_cache import FeatureCache
from custom.utils.memory import NotEnoughMemory, share_memory_between_threads

logger = logging.getLogger(__name__)


class DeepFiLMApp(MONAILabelApp):
    """MONAI Label app that serves exported Deep FiLM bundles, with the settings ``AppSettings``.

    Raises:
        ValueError: an unknown entry of ``conf``, or a bundle that cannot be served.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        keep_patient_data_out_of_logs()
        if "monailabel.app" not in sys.modules:  # in the process of a task
            exit_with_server()
        self.settings = read_fields(AppSettings, conf)
        share_memory_between_threads()  # inferences run in threads
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf),
            name="Deep FiLM",
            description="Text-guided segmentation of organs and tumours in CT. Research use only.",
            version=custom.__version__,
        )
        self._auto_update_scoring = False  # it would score all images at every start
        self.models, self.trainers = self._infers, self._trainers
        self.strategies, self.scoring_methods = self._strategies, self._scoring_methods

    def init_datastore(self) -> NiftiDatastore | DICOMSeriesDatastore:
        return open_datastore(self.studies, class_set=load_class_set())

    def init_infers(self) -> dict[str, PromptedInferTask]:
        models, model_dir = self.settings.models, Path(self.app_dir) / "model"
        self.folders = find_bundles(models, model_dir, text_encoder=self.settings.text_encoder)
        volumes = VolumeCache(limit=int(self.settings.cache_gib * 2**30))
        features = FeatureCache(gib=self.settings.features_gib)
        slots = threading.BoundedSemaphore(self.settings.concurrency)
        return {
            name: PromptedInferTask(folder, volumes=volumes, features=features, slots=slots)
            for name, folder in self.folders.items()
        }

    def init_trainers(self) -> dict[str, FineTuneTask]:
        text_encoder = self.settings.text_encoder
        return {name: FineTuneTask(folder, text_encoder=text_encoder) for name, folder in self.folders.items()}

    def init_strategies(self) -> dict[str, Strategy]:
        return STRATEGIES

    def init_scoring_methods(self) -> dict[str, UncertaintyScoring]:
        return {"uncertainty": UncertaintyScoring(self._infers)}

    def init_batch_infer(self) -> PromptedBatchTask:
        return PromptedBatchTask()

    def on_init_complete(self) -> None:
        """Install the app's routes; called in the server's process only."""
        super().on_init_complete()
        from lib.endpoints.routes import install

        server = sys.modules["monailabel.app"].app
        install(server, hosts=[host.strip() for host in self.settings.hosts.split(",") if host.strip()])

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment one image of a batch and save the result as its label ``original``.

        ``request`` has ``model``, ``image`` (its id) and fields of ``InferFields``.
        """
        store = datastore or self.datastore()
        image = self._image(request, store, model=request["model"])
        path, report = self.models[request["model"]]({**request, "image": image})
        try:
            store.save_label(request["image"], path, "original", {"model": request["model"], "params": report})
        finally:
            Path(path).unlink()
        return {"label": request["image"], "tag": "original", "params": report}

    def segment(self, model: str, fields: InferFields, source: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
        """Segment an image and return a temporary label map and the report.

        ``source`` has ``image`` (an id of the datastore), or ``session`` (an id), or ``file`` (an uploaded image).

        Raises:
            ValueError: see ``PromptedInferTask.predict``.
            FileNotFoundError: no such image.
        """
        image = self._image(source, self.datastore(), model=model)
        with self._setting_aside(source):
            path, report = self.models[model]({"image": image, **fields.model_dump()})
        return Path(path), report

    def dicom_seg(self, model: str, fields: InferFields, source: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
        """Segment a series and return a temporary DICOM-SEG and the report; otherwise as ``segment``."""
        store = self.datastore()
        if not isinstance(store, DICOMSeriesDatastore) or not source.get("image"):
            raise RequestError("dicom_seg needs a DICOM series: start the server on a DICOMweb address.")
        image = self._image(source, store, model=model)
        with self._setting_aside(source):
            result = self.models[model].predict(image, fields)
        served = result.report["model"]
        with temporary_file(".dcm") as path:
            write_dicom_seg(
                result.masks,
                path,
                affine=result.image.affine,
                series=read_series(store.series_dir(source["image"])),
                model_name=model,
                model_version=f"{served['version']}, weights {served['weights']}",
                trained_on=served["trained_on"],
            )
        return path, result.report

    @contextmanager
    def _setting_aside(self, source: Mapping[str, Any]) -> Iterator[None]:
        """Note in the datastore, where segmenting an image fails, if it cannot be read: it is not offered any more."""
        try:
            yield
        except (ValueError, NotEnoughMemory):
            if source.get("image"):
                problem_of(self.datastore(), source["image"])
            raise

    def session(self, name: str) -> SessionInfo:
        """A session that has not expired.

        Raises:
            FileNotFoundError: there is none.
        """
        found = self.sessions().get_session(name, update_ts=False)
        if found and found.last_access_ts + found.expiry < time.time():
            self.sessions().remove_session(name)
        if not (found := self.sessions().get_session(name)):
            raise FileNotFoundError("There is no session of that id, or it has expired: upload the image again.")
        return found

    def cleanup_sessions(self) -> None:
        """Remove sessions that have expired, those of an earlier server too."""
        try:
            self.sessions().remove_expired()
        except AttributeError:  # raised by MONAI Label for a folder that is no session
            logger.warning("The folder of sessions, %s, holds something else.", self.sessions().store_path)

    def _image(self, source: Mapping[str, Any], datastore: Datastore, *, model: str) -> str:
        """Path of the image of a request, whose modality must be the model's where DICOM states it."""
        if source.get("file"):
            return str(source["file"])
        if source.get("session"):
            return str(self.session(source["session"]).image)
        if source.get("image") not in datastore.list_images():
            raise FileNotFoundError("There is no image of that id in the datastore.")
        path = str(datastore.get_image_uri(source["image"]))
        self.models[model].check_modality(datastore.get_image_info(source["image"]).get("Modality", ""))
        return path
