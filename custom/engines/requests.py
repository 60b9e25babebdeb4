"""The requests of a run: each prompt for each image."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from monai.data import Dataset

from custom.datasets.image_paths import output_names
from custom.prompts.grammar import PromptError
from custom.prompts.request import PromptRequest
from custom.prompts.resolve import normalise_prompt
from custom.text.bank import PromptBank
from custom.text.no_text import NoText
from custom.utils.files import content_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One prompt for one image, and the name of its result folder.

    `settings_digest` stands for all else that decides the result (`custom.engines.settings_digest`).
    """

    image: str
    prompt: PromptRequest
    output_name: str
    settings_digest: str = ""


def list_requests(
    images: Sequence[str], *, parse: Callable[[Any], PromptRequest], prompt: Any = None, prompts: Any = None
) -> list[Request]:
    """A request for each image and prompt; those of one image follow each other.

    Results of a single prompt go to ``ct``, of several to ``ct_1_liver``, ``ct_2_both_kidneys``.

    Args:
        images: as ``list_images`` lists them.
        parse: see ``custom.prompts.PromptParser``; called once for each prompt, whose interpretation is logged.
        prompt: one prompt, as a command line gives it; ``prompts`` are several.

    Raises:
        PromptError: both; ``prompts`` that are no list of texts; whatever ``parse`` refuses.
    """
    if prompts is not None and prompt is not None:
        raise PromptError("Either --prompt (one sentence) or --prompts (several, one result each), not both.")
    if prompts is not None and (not isinstance(prompts, list | tuple) or not prompts):
        raise PromptError(
            f"--prompts must be a list of texts, such as \"['liver','both kidneys']\", not {prompts!r:.80}. One "
            "sentence is a --prompt."
        )
    if prompts is None and prompt is None:  # of a workflow that is looked at, not run
        return []
    texts = [prompt] if prompts is None else [normalise_prompt(text) for text in prompts]
    parsed = [parse(text) for text in texts]
    for line in dict.fromkeys(line for request in parsed for line in request.explain()):
        logger.info(line)
    if any(request.prompt_text == "unread" for request in parsed):
        logger.info("This network segments every class, whatever the prompt, which chooses what is written.")
    suffixes = [""]
    if prompts is not None:
        words = [re.sub(r"\W+", "_", text.lower()).strip("_")[:40].rstrip("_") or "prompt" for text in texts]
        suffixes = [f"_{number}_{name}" for number, name in enumerate(words, start=1)]
    return [
        Request(image, request, name + suffix)
        for image, name in zip(images, output_names(images), strict=True)
        for request, suffix in zip(parsed, suffixes, strict=True)
    ]


def check_requests(requests: Sequence[Request]) -> None:
    """Refuse a run without a prompt, which has no default, with a ``PromptError``."""
    if not requests:
        normalise_prompt(None)


def process_requests(requests: Sequence[Request]) -> list[Request]:
    """The requests of this process: images are dealt out in turn, all requests of one image to one process."""
    images = list(dict.fromkeys(request.image for request in requests))
    own = set(images[idist.get_rank() :: idist.get_world_size()])
    return [request for request in requests if request.image in own]


class RequestDataset(Dataset):
    """Prepared images with the digest of their file, and what they are segmented with.

    An image that several requests in a row share is prepared once. An item has ``image`` (C, H, W, D), ``request``,
    ``image_sha256``, and of the P sentences ``text`` (P, E) and ``named`` (P, K).
    """

    def __init__(
        self, data: Sequence[Request], *, bank: PromptBank | NoText, preprocessing: Callable[[Any], Any]
    ) -> None:
        super().__init__(data)
        self.encode = bank.__call__  # not the bank: MONAI walks through all attributes for something to seed
        self.preprocessing = preprocessing
        self._last: tuple[Any, Any] = (None, None)

    def _transform(self, index: int) -> Any:
        request: Request = self.data[index]
        text = self.encode(list(request.prompt.sentences))
        status = Path(request.image).stat()
        key = request.image, status.st_mtime_ns, status.st_size
        if self._last[0] != key:
            self._last = (None, None)  # before the next one takes memory
            digest = content_digest(request.image)  # before it is read: a change in between is noticed by the next run
            self._last = key, {**self.preprocessing({"image": request.image}), "image_sha256": digest}
        return {**self._last[1], "request": request, "text": text, "named": request.prompt.named}


def single_item(batch: Sequence[Any]) -> Any:
    """The one item of a batch, uncollated: the ``collate_fn`` of a loader of requests."""
    [item] = batch
    return item


def prepare_request(
    item: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, None, tuple[()], dict[str, torch.Tensor]]:
    """An item of ``RequestDataset`` for MONAI's evaluator: the image (1, C, H, W, D), and text for the inferer."""
    image, text, named = (item[key][None].to(device, non_blocking=non_blocking) for key in ("image", "text", "named"))
    return image, None, (), {"text": text, "named": named}
