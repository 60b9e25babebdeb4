"""Inference over the datastore, one image after the other."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from lib.errors import cause_of, message_of


class PromptedBatchTask(BatchInferTask):
    """Segment many images by one prompt, and save each result as the image's label ``original``.

    An image that fails does not stop the others. Progress is printed: MONAI Label shows it as the task's details.
    """

    def __call__(
        self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[..., dict[str, Any]]
    ) -> dict[str, Any]:
        images = sorted(self.get_images(request, datastore))
        images = images[: request.get("max_batch_size") or None]
        results: dict[str, Any] = {}
        for number, image in enumerate(images, start=1):
            try:
                results[image] = infer({**request, "image": image}, datastore)
                Path(results[image].pop("file")).unlink(missing_ok=True)
                outcome = f"found {', '.join(results[image]['params']['found']) or 'nothing'}"
            except Exception as error:
                results[image] = {"error": message_of(cause_of(error))}
                outcome = f"failed: {results[image]['error']}"
            print(f"{number} of {len(images)}: {outcome}", flush=True)
        return results
