"""Strategies: the first, a random, or the most uncertain unlabelled image; and the scoring of uncertainty."""

import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from lib.datastore.local import problem_of

logger = logging.getLogger(__name__)

#: Entry of an image's info: model -> {"entropy", "prompt", "weights", "ts"}.
KEY = "uncertainty"

#: Seconds for which an image is reserved to the client that was offered it.
RESERVED_SECONDS = 1800


def unlabelled_images(datastore: Datastore) -> list[str]:
    """Sorted ids of the images without a finished label.

    A DICOMweb datastore caches the PACS's list for a while, so images that were labelled here since are left out too.
    """
    images = datastore.get_unlabeled_images()
    return sorted(key for key in images if DefaultLabelTag.FINAL.value not in datastore.get_labels_by_image_id(key))


class UnlabelledStrategy(Strategy):
    """Strategy that returns {"id": image, ...}, or {} once every image that can be read is labelled.

    An image that another client was offered within `RESERVED_SECONDS` is offered only if there is no other.

    ``select`` returns one of the images, at least one and sorted, for a request to a datastore.
    """

    def __init__(self, description: str, select: Callable[..., dict[str, Any]]) -> None:
        super().__init__(description)
        self.select = select

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        datastore.refresh()  # scores are written by another process
        images = unlabelled_images(datastore)
        client = request.get("client_id")
        if client:
            offered = {image for image in images if _offered_to_another(datastore.get_image_info(image), client)}
            images = [image for image in images if image not in offered] or images
        while images:
            selected = self.select(images, request, datastore)
            if not problem_of(datastore, selected["id"]):
                return selected
            logger.warning("Set aside: an image that cannot be read; the status of the datastore has the reason.")
            images.remove(selected["id"])
        return {}


def _offered_to_another(info: Mapping[str, Any], client: str) -> bool:
    """Whether another client was offered the image a moment ago, as MONAI Label records it in its info."""
    offers = info.get("strategy")
    records = offers.values() if isinstance(offers, Mapping) else ()
    return any(
        record.get("client_id") not in (None, client) and time.time() - record.get("ts", 0) < RESERVED_SECONDS
        for record in records
        if isinstance(record, Mapping)
    )


def most_uncertain(images: list[str], request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
    """The image with the highest entropy that ``UncertaintyScoring`` measured.

    A request may name the ``model`` whose scores count; otherwise an image's highest score does. Images without a score
    come last; ``note`` gives their number.
    """
    scores = {image: _entropy(datastore.get_image_info(image), request.get("model")) for image in images}
    best = max(images, key=lambda image: scores[image])  # the first of equal ones
    unscored = sum(math.isinf(score) for score in scores.values())
    if unscored == len(images):
        return {"id": best, "note": "No image is scored yet, so this is the first: run the scoring 'uncertainty'."}
    note = {"note": f"{unscored} of {len(images)} images are not scored yet."} if unscored else {}
    return {"id": best, "entropy": scores[best]} | note


#: MONAI Label's own "random" prefers images not offered lately, and fails if all were offered this second.
STRATEGIES: dict[str, Strategy] = {
    "random": UnlabelledStrategy("Any image that is not labelled", lambda images, *_: {"id": random.choice(images)}),
    "first": UnlabelledStrategy("The first image that is not labelled", lambda images, *_: {"id": images[0]}),
    "uncertainty": UnlabelledStrategy(
        "The image of which the network is least certain: run the scoring method of the same name first", most_uncertain
    ),
}


class UncertaintyScoring(ScoringMethod):
    """Measure a model's uncertainty on every unlabelled image, and record it in the image's info.

    Images that were scored with the same weights and prompt are skipped, so that a stopped scoring can be resumed.
    Images that cannot be read are counted. ``infers`` has a ``PromptedInferTask`` by the name of its model.
    """

    def __init__(self, infers: Mapping[str, Any]) -> None:
        super().__init__("A model's uncertainty on each image that is not labelled, for the strategy of the same name")
        self.infers = infers

    def info(self) -> dict[str, Any]:
        """Description and the fields of a request."""
        return {"description": self.description, "config": {"model": list(self.infers), "prompt": ""}}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score the structures of ``prompt`` with ``model``.

        Returns:
            How many images were ``scored``, had been (``kept``) or ``failed``.

        Raises:
            Exception: the model's own, if it could score no image.
        """
        model, prompt = request["model"], request["prompt"]
        task = self.infers[model]
        settings = {"prompt": prompt, "weights": task.digest}
        images = unlabelled_images(datastore)
        counts = {"scored": 0, "kept": 0, "failed": 0}
        failure: Exception | None = None
        for number, image in enumerate(images, start=1):
            if settings.items() <= _records(datastore.get_image_info(image)).get(model, {}).items():
                counts["kept"] += 1
                continue
            try:
                entropy = float(task.uncertainty(datastore.get_image_uri(image), prompt=prompt))
            except Exception as error:  # readers and networks raise all kinds
                problem_of(datastore, image)
                counts["failed"] += 1
                failure = error
            else:
                datastore.refresh()  # the server may have written since, and a datastore writes its whole state
                records = _records(datastore.get_image_info(image))
                record = settings | {"entropy": entropy, "ts": int(time.time())}
                datastore.update_image_info(image, {KEY: records | {model: record}})
                counts["scored"] += 1
            print(f"{number} of {len(images)} images: {counts['failed']} failed", flush=True)
        if failure is not None and not counts["scored"] + counts["kept"]:
            raise failure
        return counts


def _records(info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Well-formed records by model; clients can write to an image's info, too."""
    records = info.get(KEY)
    items = records.items() if isinstance(records, dict) else ()
    return {model: record for model, record in items if isinstance(record, dict)}


def _entropy(info: Mapping[str, Any], model: object) -> float:
    """The image's highest entropy, or that by ``model``; minus infinity without a score."""
    values = [record.get("entropy") for name, record in _records(info).items() if model in (None, "", name)]
    return max((float(x) for x in values if isinstance(x, int | float) and math.isfinite(x)), default=-math.inf)
