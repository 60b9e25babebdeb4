"""Inference over the datastore, one image after the other."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from lib.errors import cause_of, words

logger = logging.getLogger(__name__)


class PromptedBatchTask(BatchInferTask):
    """Answers one prompt for many images and keeps each answer as the image's label ``original``.

    An image that cannot be answered does not stop the others. Progress is printed: MONAI Label shows it as the task's
    details.
    """

    def __call__(
        self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[..., dict[str, Any]]
    ) -> dict[str, Any]:
        images = sorted(self.get_images(request, datastore))
        images = images[: request.get("max_batch_size") or None]
        results: dict[str, Any] = {}
        for number, image in enumerate(images, start=1):
            try:
                answer = infer({**request, "image": image}, datastore)
            except Exception as error:
                results[image] = {"error": words(cause_of(error))}
                print(f"{number} of {len(images)}: failed: {results[image]['error']}", flush=True)
                continue
            Path(answer.pop("file")).unlink(missing_ok=True)
            results[image] = answer
            found = ", ".join(answer["params"]["found"]) or "nothing"
            print(f"{number} of {len(images)}: found {found}", flush=True)
        return results
