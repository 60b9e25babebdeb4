"""Deep FiLM in MONAI Label: segment by prompt, correct, fine-tune. See docs/monai_label.md."""

import logging
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom.utils.compat import mend_torchvision

mend_torchvision()  # before MONAI Label imports torchvision

from lib.activelearning.uncertainty import First, Random, Uncertainty, UncertaintyScoring  # noqa: E402
from lib.bundles import find_bundles  # noqa: E402
from lib.compat import exit_with_server, keep_patient_data_out_of_logs  # noqa: E402
from lib.datastore.dicomweb import DICOMSeriesDatastore  # noqa: E402
from lib.datastore.local import NiftiDatastore  # noqa: E402
from lib.datastore.opening import open_datastore  # noqa: E402
from lib.errors import RequestError  # noqa: E402
from lib.infers.batch import PromptedBatchTask  # noqa: E402
from lib.infers.prompted import PromptedInferTask  # noqa: E402
from lib.infers.result import in_order  # noqa: E402
from lib.infers.volume_cache import VolumeCache  # noqa: E402
from lib.schemas import AppSettings, InferFields, read_fields  # noqa: E402
from lib.temporary import temporary_file  # noqa: E402
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


class DeepFiLMApp(MONAILabelApp):
    """MONAI Label app that serves exported Deep FiLM bundles.

    Args:
        app_dir: this folder.
        studies: a folder of NIfTI images, or the address of a DICOMweb server.
        conf: see ``AppSettings``.

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
        self.models, self.trainers = list(self._infers), list(self._trainers)
        self.strategies, self.scoring_methods = list(self._strategies), list(self._scoring_methods)
        keep_patient_data_out_of_logs()

    def init_datastore(self) -> NiftiDatastore | DICOMSeriesDatastore:
        return open_datastore(self.studies, class_set=load_class_set())

    def init_infers(self) -> dict[str, PromptedInferTask]:
        self.folders = find_bundles(
            self.settings.models, Path(self.app_dir) / "model", text_encoder=self.settings.text_encoder
        )
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
        return {"random": Random(), "first": First(), "uncertainty": Uncertainty()}

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
        keep_patient_data_out_of_logs()

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment one image of a batch and save the result as its label ``original``.

        Args:
            request: ``model``, ``image`` (its id) and the fields of ``InferFields``.
            datastore: has the image and receives the label; by default the app's own.
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
        """Segment an image and return a temporary label map and the report.

        Args:
            model: name of a served bundle.
            fields: the request.
            source: ``image`` (an id of the datastore), or ``session`` (an id), or ``file`` (an uploaded image).
            datastore: in place of the app's own.

        Raises:
            ValueError: see ``PromptedInferTask.predict``.
            FileNotFoundError: no such image.
        """
        image = self._image(source, datastore or self.datastore())
        path, report = self._infers[model]({"image": image, **fields.model_dump()})
        return Path(path), report

    def dicom_seg(self, model: str, fields: InferFields, source: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
        """Segment a series and return a temporary DICOM-SEG and the report; otherwise as ``segment``."""
        store = self.datastore()
        if not isinstance(store, DICOMSeriesDatastore) or not source.get("image"):
            raise RequestError("dicom_seg needs a DICOM series: start the server on a DICOMweb address.")
        result = self._infers[model].predict(self._image(source, store), fields)
        served = result.report["model"]
        with temporary_file(".dcm") as path:
            write_dicom_seg(
                {item: result.masks[item] for item in in_order(result.masks)},
                path,
                affine=result.image.affine,
                series_dir=store.series_dir(source["image"]),
                model_name=model,
                model_version=f"{served['version']}, weights {served['weights']}",
            )
        return path, result.report

    def check_prompt(self, model: str, prompt: str) -> None:
        """Refuse a prompt that a model does not understand, before a process is started for it.

        Raises:
            ValueError: no such model, or see ``ResolvePromptd``.
        """
        if model not in self._infers:
            raise RequestError(f"model must be one of {', '.join(self._infers)}.")
        self._infers[model].check_prompt(prompt)

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
        except AttributeError:  # raised by MONAI Label for a folder that is no session
            logger.warning("The folder of sessions, %s, holds something else.", self.sessions().store_path)

    def _image(self, source: Mapping[str, Any], datastore: Datastore) -> str:
        """Path of the image of a request."""
        if source.get("file"):
            return str(source["file"])
        if source.get("session"):
            return str(self.session(source["session"]).image)
        if source.get("image") not in datastore.list_images():
            raise FileNotFoundError("There is no image of that id in the datastore.")
        return str(datastore.get_image_uri(source["image"]))
