"""Which questions are answered already, known by content: the same voxels, weights, words and settings."""

import functools
import hashlib
import json
import logging
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from monai.transforms import Compose

import custom
from custom.anatomy.class_set import ClassSet
from custom.datasets.cache_keys import transforms_key
from custom.prompts.resolve import normalise_prompt
from custom.utils.files import content_digest
from custom.utils.precision import computes_bfloat16

logger = logging.getLogger(__name__)


def settings_digest(
    *, weights: str | Path, class_set: ClassSet, device: str | torch.device, settings: Mapping[str, Any]
) -> str:
    """SHA-256 of all that decides an answer but image and prompt: program, weights, class set, device, settings.

    Args:
        weights: the file.
        class_set: what the channels mean, and what their sentences are.
        device: that computes; its kind counts, and whether it does so in bfloat16.
        settings: of a file, its content counts; of transforms and an inferer, their parameters.
    """
    told = {
        "software": [_program_digest(), torch.__version__],
        "weights": content_digest(weights),
        "class_set": asdict(class_set),
        "device": [torch.device(device).type, computes_bfloat16(torch.device(device))],
        "settings": {key: _content(value) for key, value in settings.items()},
    }
    text = json.dumps(
        told, sort_keys=True, default=lambda value: sorted(value) if isinstance(value, set | frozenset) else str(value)
    )
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _program_digest() -> str:
    """SHA-256 of this package: whatever is mended in it may change an answer."""
    home = Path(custom.__file__).parent
    files = sorted(file for kind in ("*.py", "*.json") for file in home.rglob(kind))
    told = [f"{file.relative_to(home).as_posix()} {content_digest(file)}" for file in files]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _content(value: Any) -> Any:
    if isinstance(value, Compose):
        try:
            return transforms_key(value.transforms).decode()
        except TypeError:  # of unnamed functions it cannot be told whether they are the same
            return str(uuid.uuid4())
    if isinstance(value, Inferer):
        return [type(value).__qualname__, {name: str(part) for name, part in vars(value).items() if _is_plain(part)}]
    is_file = isinstance(value, str | Path) and Path(value).is_file()
    return content_digest(value) if is_file else str(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def pending_requests(
    requests: Sequence[Mapping[str, Any]], *, output_dir: str | Path, digest: str, overwrite: bool = False
) -> list[dict[str, Any]]:
    """Requests without a result in ``output_dir``, each with the ``settings_digest`` that its summary will carry.

    Without ``overwrite`` an answer to another question, or with other settings, is not replaced.

    Args:
        requests: see ``custom.engines.list_requests``.
        output_dir: where answers are.
        digest: see ``settings_digest``.
        overwrite: answer all of them, also those that are answered.

    Raises:
        ValueError: an answer that would be replaced.
    """
    asked = [dict(request) | {"settings_digest": digest} for request in requests]
    if overwrite:
        return asked
    found = [_earlier_answer(Path(output_dir) / request["output_name"]) for request in asked]
    differing = [[] if summary is None else _differences(summary, q) for summary, q in zip(found, asked, strict=True)]
    others = [f"{q['output_name']} ({' and '.join(why)})" for why, q in zip(differing, asked, strict=True) if why]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ValueError(
            f"Answers must not be lost unasked, and {output_dir} holds others: {', '.join(others[:3])}{more}. Choose "
            "another --output_dir, or replace them with --overwrite True."
        )
    # The voxels of a .nhdr are in another file.
    left = [q for q, known in zip(asked, found, strict=True) if known is None or _is_detached(q["image"])]
    if len(left) < len(asked):
        logger.info(
            "%d of %d skipped: same image, prompt, weights and settings as before. --overwrite True repeats them.",
            len(asked) - len(left),
            len(asked),
        )
    return left


def _earlier_answer(folder: Path) -> dict[str, Any] | None:
    """The summary of an answer of which no file is missing."""
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        told = summary["settings_digest"], summary["prompt"]["asked"], summary["image_sha256"]
        return summary if all(told) and all((folder / name).is_file() for name in summary["files"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _differences(summary: Mapping[str, Any], request: Mapping[str, Any]) -> list[str]:
    """In what an earlier answer is one to another question."""
    why = []
    if summary["prompt"]["asked"] != plain_text(request["prompt"]):
        why.append(f"to {summary['prompt']['asked']!r:.60}")
    if summary["settings_digest"] != request["settings_digest"]:
        why.append("by other weights, settings or another version")
    if not _is_detached(request["image"]) and summary["image_sha256"] != content_digest(request["image"]):
        why.append("of other voxels")
    return why


def _is_detached(image: Any) -> bool:
    return str(image).lower().endswith(".nhdr")


def plain_text(prompt: Any) -> str:
    """A prompt as it is compared and reported."""
    return unicodedata.normalize("NFC", normalise_prompt(prompt)).strip()
