"""Which image to label next: the first, any, or the one that a network is least sure of."""

import math
import random
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

#: Entry of an image's info: model -> {"entropy", "prompt", "weights", "ts"}.
KEY = "uncertainty"


class Uncertain(Protocol):
    """An inference task that can say how sure it is of an image."""

    @property
    def digest(self) -> str:
        """SHA-256 of the weights that answer."""

    def uncertainty(self, image: str, *, prompt: str) -> float:
        """Mean binary entropy, bits, of the structures that ``prompt`` names, where any of them may be."""


def unlabelled(datastore: Datastore) -> list[str]:
    """Ids of the images without a finished label, in order.

    A DICOMweb datastore remembers its server's answer for a while; what was labelled here since then is left out too.
    """
    found = datastore.get_unlabeled_images()
    return sorted(key for key in found if DefaultLabelTag.FINAL.value not in datastore.get_labels_by_image_id(key))


class ChoiceOfUnlabelled(Strategy):
    """Strategy that answers {"id": image, ...}, or {} once every image that is a volume is labelled."""

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        datastore.refresh()  # scores are written by another process
        images = unlabelled(datastore)
        while images:
            choice = self.choose(images, request, datastore)
            try:
                datastore.get_image_uri(choice["id"])
            except ValueError:  # a series of a PACS that is no volume, such as a localizer
                images.remove(choice["id"])
            else:
                return choice
        return {}

    @abstractmethod
    def choose(self, images: list[str], request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Answer with one of ``images``, which are sorted and not none."""


class First(ChoiceOfUnlabelled):
    """The unlabelled image that comes first by its id."""

    def __init__(self) -> None:
        super().__init__("The first image that is not labelled")

    def choose(self, images: list[str], request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        return {"id": images[0]}


class Random(ChoiceOfUnlabelled):
    """Any unlabelled image.

    MONAI Label's own of this name prefers what was not offered lately, and fails where all was offered this second.
    """

    def __init__(self) -> None:
        super().__init__("Any image that is not labelled")

    def choose(self, images: list[str], request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        return {"id": random.choice(images)}


class Uncertainty(ChoiceOfUnlabelled):
    """The unlabelled image with the highest entropy that ``UncertaintyScoring`` found.

    A request may name the ``model`` whose scores count, else an image's highest counts. Images that were never scored
    come after all that were; ``note`` says how many there are.
    """

    def __init__(self) -> None:
        super().__init__("The image that the network is least sure of: run the scoring method of the same name first")

    def choose(self, images: list[str], request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        scores = {image: _entropy(datastore.get_image_info(image), request.get("model")) for image in images}
        best = max(images, key=lambda image: scores[image])  # of equal ones the first
        unscored = sum(math.isinf(score) for score in scores.values())
        if unscored == len(images):
            return {"id": best, "note": "No image is scored yet, so this is the first: run the scoring 'uncertainty'."}
        note = {"note": f"{unscored} of {len(images)} images are not scored yet."} if unscored else {}
        return {"id": best, "entropy": scores[best]} | note


class UncertaintyScoring(ScoringMethod):
    """Ask a model how sure it is of every unlabelled image, and keep the answer in the image's info.

    An image that was scored with the same weights and prompt is passed over, so a scoring that was stopped goes on. One
    that cannot be read is counted and passed over too.

    Args:
        infers: inference tasks by the name of their model.
    """

    def __init__(self, infers: Mapping[str, Uncertain]) -> None:
        super().__init__("How sure a model is of each image that is not labelled, for the strategy of the same name")
        self.infers = infers

    def info(self) -> dict[str, Any]:
        """Description, and the fields of a request."""
        return {"description": self.description, "config": {"model": list(self.infers), "prompt": ""}}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score with ``model`` (the only one may be left out) what ``prompt`` names.

        Returns:
            How many images were ``scored``, had been (``kept``) or ``failed``. {} without a prompt, so that MONAI
            Label, which calls every scoring method on its own account, starts no long work that nobody asked for.

        Raises:
            ValueError: no such model.
            Exception: what the model raised, where it could score no image.
        """
        prompt = request.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            print("Nothing scored: a prompt must say for which structures, such as 'liver and spleen'.", flush=True)
            return {}
        model: Any = request.get("model") or (next(iter(self.infers)) if len(self.infers) == 1 else None)
        if model not in self.infers:
            raise ValueError(f"model must be one of {', '.join(self.infers)}, not {model!r:.80}.")
        return self._score(datastore, model, prompt)

    def _score(self, datastore: Datastore, model: str, prompt: str) -> dict[str, Any]:
        task = self.infers[model]
        asked = {"prompt": prompt, "weights": task.digest}
        images = unlabelled(datastore)
        counts = {"scored": 0, "kept": 0, "failed": 0}
        reason: Exception | None = None
        for number, image in enumerate(images, start=1):
            if asked.items() <= _records(datastore.get_image_info(image)).get(model, {}).items():
                counts["kept"] += 1
                continue
            try:
                entropy = float(task.uncertainty(datastore.get_image_uri(image), prompt=prompt))
            except Exception as error:  # whatever an image makes a reader or a network raise
                counts["failed"] += 1
                reason = error
            else:
                _store(datastore, image, model, asked | {"entropy": entropy, "ts": int(time.time())})
                counts["scored"] += 1
            print(f"{number} of {len(images)} images: {counts['failed']} failed", flush=True)
        if reason is not None and not counts["scored"] + counts["kept"]:
            raise reason
        return counts


def _store(datastore: Datastore, image: str, model: str, record: dict[str, Any]) -> None:
    """Add a record to an image's info.

    This runs in a process of its own, and a datastore writes all that it knows: it first reads what others have written
    in the meantime, such as the names in a label that was just finished.
    """
    datastore.refresh()
    datastore.update_image_info(image, {KEY: _records(datastore.get_image_info(image)) | {model: record}})


def _records(info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Well-formed records by model: clients can write to an image's info, too."""
    records = info.get(KEY)
    if not isinstance(records, dict):
        return {}
    return {model: record for model, record in records.items() if isinstance(record, dict)}


def _entropy(info: Mapping[str, Any], model: object) -> float:
    """The image's highest entropy, or that by ``model``; minus infinity where there is none."""
    chosen = [record for name, record in _records(info).items() if model in (None, "", name)]
    values = [record.get("entropy") for record in chosen]
    numbers = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return max(numbers, default=-math.inf)
