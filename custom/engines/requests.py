"""Prompts asked of images."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset

from custom.datasets.image_paths import output_names
from custom.prompts.grammar import PromptError
from custom.prompts.resolve import normalise_prompt
from custom.utils.files import content_digest

#: Longest part of a prompt in the name of a folder, in characters.
LONGEST_SLUG = 40


def list_requests(images: Sequence[str], *, prompt: Any = None, prompts: Any = None) -> list[dict[str, str]]:
    """A request for each image and prompt: {"image": path, "prompt": text, "output_name": name of the result folder}.

    A single prompt is answered in ``ct``, several in ``ct_1_liver``, ``ct_2_both_kidneys``; those of one image follow
    each other.

    Args:
        images: as ``list_images`` lists them.
        prompt: one prompt, as a command line gives it.
        prompts: several, to be answered one by one.

    Raises:
        PromptError: none, or both; ``prompts`` that are no list of texts.
    """
    names = output_names(images)
    if prompts is None:
        return [{"image": i, "prompt": prompt, "output_name": name} for i, name in zip(images, names, strict=True)]
    if prompt is not None:
        raise PromptError("Either --prompt (one sentence) or --prompts (several, answered one by one), not both.")
    if not isinstance(prompts, list | tuple) or not prompts:
        raise PromptError(
            f"--prompts must be a list of texts, such as \"['liver','both kidneys']\", not {prompts!r:.80}. One "
            "sentence is a --prompt."
        )
    texts = [normalise_prompt(text) for text in prompts]
    return [
        {"image": image, "prompt": text, "output_name": f"{name}_{number}_{_slug(text)}"}
        for image, name in zip(images, names, strict=True)
        for number, text in enumerate(texts, start=1)
    ]


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text.lower()).strip("_")[:LONGEST_SLUG].rstrip("_") or "prompt"


class RequestDataset(Dataset):
    """Prepared images, each with the digest of its file, and what they are asked.

    An image that is asked several times in a row is prepared once.

    Args:
        data: items with ``image`` and ``prompt``.
        prompt_preprocessing: what the prompt goes through.
        preprocessing: what the image goes through.
    """

    def __init__(
        self, data: Sequence[Any], *, prompt_preprocessing: Callable[[Any], Any], preprocessing: Callable[[Any], Any]
    ) -> None:
        super().__init__(data)
        self.prompt_preprocessing = prompt_preprocessing
        self.preprocessing = preprocessing
        self._last: tuple[Any, Any] = (None, None)

    def _transform(self, index: int) -> Any:
        item = self.data[index]
        asked = self.prompt_preprocessing({key: value for key, value in item.items() if key != "image"})
        status = Path(item["image"]).stat()
        key = item["image"], status.st_mtime_ns, status.st_size
        if self._last[0] != key:
            self._last = (None, None)  # before the next one takes memory
            digest = content_digest(item["image"])  # before it is read: what changes meanwhile is asked again
            self._last = key, {**self.preprocessing({"image": item["image"]}), "image_sha256": digest}
        return {**self._last[1], **asked}
