"""Inference task: segment the structures of a prompt, on the grid of the image."""

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleConstants, BundleInferTask

from custom.anatomy.class_set import ClassSet
from custom.imageio.checks import check_image
from custom.inferers.feature_cache import FeatureCache
from custom.inferers.segmentation import SegmentingInferer
from custom.outputs.result_folder import SaveSegmentationd
from custom.outputs.structures import structure_masks
from custom.prompts.grammar import PromptError
from custom.prompts.request import PromptParser, PromptRequest
from custom.text.bank import PromptBank
from custom.text.no_text import NoText
from custom.utils.files import content_digest
from custom.utils.precision import computes_bfloat16
from custom.weights.header import read_header
from lib.bundles import weights_path
from lib.errors import RequestError, message_of
from lib.infers.cancellation import CancellableProgress, Times, cancelled
from lib.infers.result import InferResult, describe_segments, write_label_map
from lib.infers.volume_cache import VolumeCache
from lib.schemas import InferFields, PromptFields

logger = logging.getLogger(__name__)


class _Loaded(NamedTuple):
    """What inference needs of a bundle; replaced as one when its weights change."""

    stamp: tuple[Path, int]
    trained: bool
    digest: str
    network: torch.nn.Module
    device: torch.device
    class_set: ClassSet
    trained_classes: tuple[str, ...]
    parse: PromptParser
    bank: PromptBank | NoText
    prepare: Compose
    inferer: SegmentingInferer


class _Constants(BundleConstants):
    def __init__(self, weights: Path) -> None:
        self.weights = weights

    def model_pytorch(self) -> str:
        return self.weights.name


class PromptedInferTask(BundleInferTask):
    """Serve one exported bundle to many clients at once.

    MONAI Label's own task evaluates and logs what clients send, so only its reading of the bundle is used. Weights are
    read again when their file changes. Prepared and encoded images are cached; nothing else of a request is kept.

    Args:
        folder: an exported bundle.
        volumes: prepared volumes, shared by all tasks.
        features: encoded windows, shared by all tasks, which a second prompt on an image uses again.
        slots: the number of inferences that may run at once, shared by all tasks.
    """

    def __init__(
        self, folder: Path, *, volumes: VolumeCache, features: FeatureCache, slots: threading.Semaphore
    ) -> None:
        self.folder = folder
        self.volumes = volumes
        self.features = features
        self.slots = slots
        super().__init__(
            str(folder),
            {},
            const=_Constants(self.weights),
            type=InferType.SEGMENTATION,
            post_filter=[SaveSegmentationd],
            add_post_restore=False,
        )
        self._loading, self._asking = threading.Lock(), threading.Lock()
        self._refused: tuple[Path, int] | None = None  # weights that cannot be read, until they change
        self._loaded = self._load(self.bundle_config)
        self._config.clear()
        self._config.update(prompt="", classes="", precision=["auto", "float32", "bfloat16"])

    @property
    def weights(self) -> Path:
        """The weights file that is served."""
        return weights_path(self.folder)

    @property
    def digest(self) -> str:
        """SHA-256 of the served weights."""
        return self._current().digest

    def info(self) -> dict[str, Any]:
        """What clients show of the model: ``classes`` with names and colours, and whether it is ``trained``."""
        loaded = self._current()
        learned = loaded.trained_classes if loaded.trained else ()
        classes = [
            {"name": item.name, "value": item.index, "color": list(item.color), "learned": item.name in learned}
            for item in loaded.class_set
        ]
        info = dict(super().info()) | {
            "labels": {name: loaded.class_set.index(name) for name in loaded.trained_classes}
        }
        if not loaded.trained:
            info["description"] = f"UNTRAINED, its output is noise: {info['description']}"
        return info | {"trained": loaded.trained, "classes": classes}

    def __call__(
        self, request: Mapping[str, Any], callbacks: Mapping[Any, Callable[..., Any]] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Segment an image and write one label map; raises as ``predict`` does.

        Args:
            request: ``image``, a NIfTI file, and the fields of ``InferFields``; other entries are not read.
            callbacks: not supported; MONAI Label passes none here.

        Returns:
            A temporary file (uint8 in the image's geometry, value = position in ``label_names``), and the report.
        """
        fields = InferFields(**{key: request[key] for key in InferFields.model_fields if key in request})
        result = self.predict(str(request["image"]), fields)
        start = time.monotonic()
        path = write_label_map(result, fields.result_extension, compress=fields.result_compress)
        result.report["latencies"]["write"] = round(time.monotonic() - start, 2)
        return str(path), result.report

    def predict(self, image: str, fields: PromptFields) -> InferResult:
        """Segment the requested structures in an image.

        Raises:
            ValueError: a prompt that is not understood, an unsuitable image, or a precision that this machine lacks.
            Cancelled: the client went away.
        """
        loaded, times = self._current(), Times()
        request, text = self._parse(loaded, fields.requested_text())
        source = check_image(image)
        with self._slot(times):  # a waiting request holds no volume in memory
            with times("prepare"):
                volume = self._volume(loaded, image)
            with torch.inference_mode(), times("infer"):
                found = self._inferer(loaded, fields)(*self._inputs(loaded, volume, request, text))
        masks = structure_masks(found, request.structures, loaded.class_set)
        segments = describe_segments(masks, source, loaded.class_set)
        logger.info("%s: %d structures in %.1f s %s", self.folder.name, len(masks), times.total(), times.table)
        prompt = request.summary()
        report = {
            "label_names": {segment["title"]: segment["value"] for segment in segments},
            "segments": segments,
            "prompt": {key: value for key, value in prompt.items() if key != "sentences"},
            "found": [segment["title"] for segment in segments if segment["voxels"]],
            "not_found": [segment["title"] for segment in segments if not segment["voxels"]],
            "warnings": [] if loaded.trained else [f"{self.folder.name} is untrained: its output is noise."],
            "model": {
                "name": self.folder.name,
                "version": self.version,
                "weights": loaded.digest[:12],
                "trained": loaded.trained,
            },
            "notice": "Research use only. Not for clinical use.",
            "latencies": times.table | {"total": times.total()},
        }
        return InferResult(masks, source, report)

    def check_prompt(self, prompt: str) -> None:
        """Refuse a prompt that is not understood; raises as ``predict`` does."""
        self._parse(self._current(), prompt)

    def uncertainty(self, image: str, *, prompt: str) -> float:
        """Mean binary entropy (bits) of the requested classes over voxels where any has a probability of at least 0.05.

        0 if there is no such voxel. Raises as ``predict`` does.
        """
        loaded = self._current()
        request, text = self._parse(loaded, prompt)
        inferer, bits, voxels = self._inferer(loaded, PromptFields(prompt=prompt)), 0.0, 0
        with self._slot(Times()):
            volume = self._volume(loaded, image)
            with torch.inference_mode():
                for slab in inferer.predict_slabs(*self._inputs(loaded, volume, request, text)):
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
        inferer.progress = CancellableProgress(cancelled.get())
        inferer.cache = self.features
        return inferer

    @staticmethod
    def _inputs(loaded: _Loaded, volume: MetaTensor, request: PromptRequest, text: torch.Tensor) -> tuple[Any, ...]:
        """Arguments of ``SegmentingInferer``, for a batch of one image."""
        return volume[None].to(loaded.device), loaded.network, text[None].to(loaded.device), request.named[None]

    def _volume(self, loaded: _Loaded, image: str) -> MetaTensor:
        settings = f"{self.folder} {loaded.stamp}"  # a volume is restored by the transforms that prepared it
        return self.volumes.get(image, settings=settings, prepare=lambda path: loaded.prepare({"image": path})["image"])

    @contextmanager
    def _slot(self, times: "Times") -> Iterator[None]:
        """Wait until another inference may run, or the client goes away."""
        progress = CancellableProgress(cancelled.get())
        with times("wait"):
            while not self.slots.acquire(timeout=0.2):
                progress.check()
        try:
            progress.check()
            yield
        finally:
            self.slots.release()

    def _current(self) -> _Loaded:
        with self._loading:
            stamp = None
            try:
                stamp = self._stamp()
                if stamp not in (self._loaded.stamp, self._refused):
                    self._loaded = self._load(self._load_bundle_config(self.bundle_path, self.bundle_config_path))
            except Exception as error:  # missing, incomplete, or of another network
                self._refused = stamp  # of the attempt: the file may have been completed since
                logger.warning("%s: its new weights cannot be read; the old ones stay: %s", self.folder.name, error)
            return self._loaded

    def _stamp(self) -> tuple[Path, int]:
        return self.weights, self.weights.stat().st_mtime_ns

    def _load(self, parser: ConfigParser) -> _Loaded:
        stamp = self._stamp()
        self.bundle_config = parser
        parser.get_parsed_content("checkpointloader")
        class_set = parser.get_parsed_content("class_set")
        return _Loaded(
            stamp=stamp,
            trained=bool(read_header(stamp[0])["provenance"].get("trained", True)),
            digest=content_digest(stamp[0]),
            network=parser.get_parsed_content("network").eval(),
            device=parser.get_parsed_content("device"),
            class_set=class_set,
            trained_classes=tuple(parser.get_parsed_content("trained").trained_classes),
            parse=parser.get_parsed_content("prompt_preprocessing"),
            bank=parser.get_parsed_content("bank"),
            prepare=Compose(self.pre_transforms({})),
            inferer=parser.get_parsed_content("inferer"),
        )

    def _load_bundle_config(self, path: str, config: str) -> ConfigParser:
        parser = super()._load_bundle_config(path, config)
        parser.config |= {"weights": str(self.weights), "images": []}
        return parser
