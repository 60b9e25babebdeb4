"""Inference tasks: segment the structures of a prompt, on the grid of the image; or in many images, one by one."""

import copy
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from custom.anatomy.class_set import ClassSet
from custom.imageio.checks import check_image, check_modality
from custom.inferers.feature_cache import FeatureCache
from custom.inferers.segmentation import SegmentingInferer
from custom.outputs.structures import StructureMasks
from custom.prompts.grammar import PromptError
from custom.prompts.request import PromptParser, PromptRequest
from custom.text.bank import PromptBank
from custom.text.no_text import NoText
from custom.utils.files import content_digest
from custom.utils.precision import computes_bfloat16
from custom.weights.header import read_header, trained_on
from lib.bundles import weights_path
from lib.errors import RequestError, message_of
from lib.infers.cancellation import CancellableProgress, raise_if_cancelled
from lib.infers.result import InferResult, describe_segments, write_label_map
from lib.infers.volume_cache import VolumeCache
from lib.schemas import InferFields, PromptFields

logger = logging.getLogger(__name__)


class _Loaded:
    """What inference needs of a bundle; replaced as one when its weights change."""

    def __init__(self, folder: Path) -> None:
        self.stamp = _stamp(folder)
        weights = self.stamp[0]
        parser = ConfigParser()
        parser.read_config(folder / "configs" / "inference.json")
        parser.config |= {"bundle_root": str(folder), "weights": str(weights), "images": []}
        part = parser.get_parsed_content
        part("checkpointloader")
        header = read_header(weights)
        self.trained = bool(header["provenance"].get("trained", True))
        self.trained_on = trained_on(header)
        logger.warning("%s %s: weights trained on %s.", folder.name, content_digest(weights)[:12], self.trained_on)
        self.digest = content_digest(weights)
        self.network: torch.nn.Module = part("network").eval()
        self.device: torch.device = part("device")
        self.class_set: ClassSet = part("class_set")
        self.trained_classes: list[str] = list(part("trained").trained_classes)
        self.parse: PromptParser = part("prompt_preprocessing")
        self.bank: PromptBank | NoText = part("bank")
        transforms: Compose = part("preprocessing")
        self.prepare: Callable[[str], MetaTensor] = lambda path: transforms({"image": path})["image"]
        self.inferer: SegmentingInferer = part("inferer")


class PromptedInferTask(InferTask):
    """Serve one exported bundle to many clients at once.

    MONAI Label's own task for bundles evaluates and logs what clients send, so it is not used. Weights are read again
    when their file changes. Prepared images (``volumes``) and encoded ones (``features``) are cached, nothing else of a
    request is kept; ``slots`` is the number of inferences that may run at once. All tasks share these.
    """

    def __init__(
        self, folder: Path, *, volumes: VolumeCache, features: FeatureCache, slots: threading.Semaphore
    ) -> None:
        metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=None,
            dimension=3,
            description=metadata["description"],
            config={"prompt": "", "classes": "", "precision": ["auto", "float32", "bfloat16"]},
        )
        self.folder, self.version = folder, metadata["version"]
        self.volumes, self.features, self.slots = volumes, features, slots
        self._loading, self._asking = threading.Lock(), threading.Lock()
        self._refused: tuple[Path, int] | None = None  # weights that cannot be read, until they change
        self._loaded = _Loaded(folder)

    @property
    def digest(self) -> str:
        """SHA-256 of the served weights."""
        return self._current().digest

    def is_valid(self) -> bool:
        return True

    def info(self) -> dict[str, Any]:
        """What clients show of the model: ``classes`` with names and colours, whether it is ``trained``, on what."""
        loaded = self._current()
        learned = loaded.trained_classes if loaded.trained else ()
        classes = [
            {"name": item.name, "value": item.index, "color": list(item.color), "learned": item.name in learned}
            for item in loaded.class_set
        ]
        labels = {name: loaded.class_set.index(name) for name in loaded.trained_classes}
        info = dict(super().info()) | {"labels": labels, "version": self.version}
        if not loaded.trained:
            info["description"] = f"UNTRAINED, its output is noise: {info['description']}"
        return info | {"trained": loaded.trained, "trained_on": loaded.trained_on, "classes": classes}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment an image and return a temporary label map (see ``write_label_map``) and the report.

        ``request`` has ``image``, a NIfTI file, and fields of ``InferFields``; other entries are not read. Raises as
        ``predict`` does.
        """
        fields = InferFields(**{key: request[key] for key in InferFields.model_fields if key in request})
        result = self.predict(str(request["image"]), fields)
        with _timed(result.report["latencies"], "write"):
            path = write_label_map(result, fields.result_extension, compress=fields.result_compress)
        return str(path), result.report

    def predict(self, image: str, fields: PromptFields) -> InferResult:
        """Segment the requested structures in an image.

        Raises:
            ValueError: a prompt that is not understood, an unsuitable image, or a precision that this machine lacks.
            Cancelled: the client went away.
        """
        loaded = self._current()
        latencies: dict[str, float] = {}
        with _timed(latencies, "total"):
            request, text = self._parse(loaded, fields.requested_text())
            source = check_image(image)
            with self._slot(latencies):  # a waiting request holds no volume in memory
                with _timed(latencies, "prepare"):
                    inputs = self._inputs(loaded, image, request, text)
                with torch.inference_mode(), _timed(latencies, "infer"):
                    found = self._inferer(loaded, fields)(*inputs)
            if found.shape != source.shape or not np.allclose(found.affine, source.affine, atol=1e-3):
                raise ValueError("The image was replaced by one on another grid meanwhile. Send the request again.")
            structures = sorted(request.structures, key=lambda structure: structure.index)
            masks = StructureMasks(found, structures, loaded.class_set)
            segments = describe_segments(masks, source, loaded.class_set)
        name = self.folder.name
        logger.info("%s: %d structures in %.1f s %s", name, len(masks), latencies["total"], latencies)
        report = {
            "label_names": {segment["title"]: segment["value"] for segment in segments},
            "segments": segments,
            "prompt": {key: value for key, value in request.summary().items() if key != "sentences"},
            "found": [segment["title"] for segment in segments if segment["voxels"]],
            "not_found": [segment["title"] for segment in segments if not segment["voxels"]],
            "warnings": [] if loaded.trained else [f"{name} is untrained: its output is noise."],
            "model": {
                "name": name,
                "version": self.version,
                "weights": loaded.digest[:12],
                "trained": loaded.trained,
                "trained_on": loaded.trained_on,
            },
            "notice": "Research use only. Not for clinical use.",
            "latencies": latencies,
        }
        return InferResult(masks, source, report)

    def check_prompt(self, prompt: str) -> None:
        """Refuse a prompt that is not understood; raises as ``predict`` does."""
        self._parse(self._current(), prompt)

    def check_modality(self, modality: str) -> None:
        """Refuse another modality of DICOM than that of the classes; none passes."""
        check_modality(modality, self._current().class_set.modality, image="the series")

    def uncertainty(self, image: str, *, prompt: str) -> float:
        """Mean binary entropy (bits) of the requested classes over voxels where any has a probability of at least 0.05.

        0 if there is no such voxel. Raises as ``predict`` does.
        """
        loaded = self._current()
        request, text = self._parse(loaded, prompt)
        inferer, bits, voxels = self._inferer(loaded, PromptFields(prompt=prompt)), 0.0, 0
        with self._slot({}), torch.inference_mode():
            for slab in inferer.predict_slabs(*self._inputs(loaded, image, request, text)):
                p = slab.fresh.sigmoid().clamp(1e-6, 1 - 1e-6)
                p = p[:, (p >= 0.05).any(0)]
                bits += float(-(p * p.log2() + (1 - p) * (1 - p).log2()).double().sum())
                voxels += p.numel()
        return bits / voxels if voxels else 0.0

    def _parse(self, loaded: _Loaded, prompt: str) -> tuple[PromptRequest, torch.Tensor]:
        """A prompt, parsed, and the vectors (P, E) of its sentences."""
        try:
            with self._asking:  # tokenizers are not made for several threads
                request = loaded.parse(prompt)
                return request, loaded.bank(list(request.sentences))
        except PromptError as error:
            known = ", ".join(loaded.trained_classes)
            raise RequestError(f"{message_of(error)} {self.folder.name} knows: {known}.") from error

    def _inferer(self, loaded: _Loaded, fields: PromptFields) -> SegmentingInferer:
        """The bundle's inferer with the settings of this request."""
        if fields.precision == "bfloat16" and not computes_bfloat16(loaded.device):
            raise RequestError(
                f"precision must be auto or float32 here: {loaded.device} does not compute in bfloat16 natively."
            )
        inferer = copy.copy(loaded.inferer)
        if fields.precision != "auto":
            inferer.amp = fields.precision == "bfloat16"
        inferer.progress, inferer.cache = CancellableProgress(), self.features
        return inferer

    def _inputs(self, loaded: _Loaded, image: str, request: PromptRequest, text: torch.Tensor) -> tuple[Any, ...]:
        """Arguments of ``SegmentingInferer`` for one image, which is prepared unless it is cached."""
        volume = self.volumes.prepared(image, loaded.prepare)
        return volume[None].to(loaded.device), loaded.network, text[None].to(loaded.device), request.named[None]

    @contextmanager
    def _slot(self, latencies: dict[str, float]) -> Iterator[None]:
        """Wait until another inference may run, or the client goes away."""
        with _timed(latencies, "wait"):
            while not self.slots.acquire(timeout=0.2):
                raise_if_cancelled()
        try:
            raise_if_cancelled()
            yield
        finally:
            self.slots.release()

    def _current(self) -> _Loaded:
        with self._loading:
            stamp = None
            try:
                stamp = _stamp(self.folder)
                if stamp not in (self._loaded.stamp, self._refused):
                    self._loaded = _Loaded(self.folder)
            except Exception as error:  # missing, incomplete, or of another network
                self._refused = stamp  # of the attempt: the file may have been completed since
                logger.warning("%s: its new weights cannot be read; the old ones stay: %s", self.folder.name, error)
            return self._loaded


class PromptedBatchTask(BatchInferTask):
    """Segment many images by one prompt, and save each result as the image's label ``original``.

    An image that fails does not stop the others. Progress is printed: MONAI Label shows it as the task's details.
    """

    def __call__(self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[..., Any]) -> dict[str, Any]:
        images = sorted(self.get_images(request, datastore))[: request.get("max_batch_size") or None]
        results: dict[str, Any] = {}
        for number, image in enumerate(images, start=1):
            try:
                results[image] = infer({**request, "image": image}, datastore)
                outcome = f"found {', '.join(results[image]['params']['found']) or 'nothing'}"
            except Exception as error:
                results[image] = {"error": message_of(error)}
                outcome = f"failed: {message_of(error)}"
            print(f"{number} of {len(images)}: {outcome}", flush=True)
        return results


def _stamp(folder: Path) -> tuple[Path, int]:
    """The weights of a bundle, and when they were changed."""
    weights = weights_path(folder)
    return weights, weights.stat().st_mtime_ns


@contextmanager
def _timed(latencies: dict[str, float], step: str) -> Iterator[None]:
    """Add the seconds that the block takes."""
    start = time.monotonic()
    yield
    latencies[step] = round(time.monotonic() - start, 2)
