"""Which requests an earlier run has done, known by content: the same voxels, weights, words and settings."""

import functools
import hashlib
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from monai.transforms import Compose

import custom
from custom.anatomy.class_set import ClassSet
from custom.datasets.cache_keys import transforms_key
from custom.engines.requests import Request
from custom.prompts.request import PromptParser
from custom.text.bank import PromptBank
from custom.text.no_text import NoText
from custom.utils.files import content_digest
from custom.utils.precision import computes_bfloat16

logger = logging.getLogger(__name__)


def settings_digest(
    *, weights: str | Path, class_set: ClassSet, device: str | torch.device, settings: Mapping[str, Any]
) -> str:
    """SHA-256 of all that decides a result beside image and prompt: program, weights, class set, device, settings.

    Args:
        weights: the file.
        class_set: what the channels mean, and what their sentences are.
        device: that computes; its kind counts, and whether it does so in bfloat16.
        settings: of a file, its content counts; of transforms, an inferer, a parser and a bank, their parameters.
    """
    content = {
        "software": [_program_digest(), torch.__version__],
        "weights": content_digest(weights),
        "class_set": asdict(class_set),
        "device": [torch.device(device).type, computes_bfloat16(torch.device(device))],
        "settings": {key: _content(value) for key, value in settings.items()},
    }
    text = json.dumps(
        content,
        sort_keys=True,
        default=lambda value: sorted(value) if isinstance(value, set | frozenset) else str(value),
    )
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _program_digest() -> str:
    """SHA-256 of this package but for ``tools``, which exported bundles lack: any change may change a result."""
    package = Path(custom.__file__).parent
    files = [file.relative_to(package) for kind in ("*.py", "*.json") for file in sorted(package.rglob(kind))]
    lines = [f"{file.as_posix()} {content_digest(package / file)}" for file in files if file.parts[0] != "tools"]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _content(value: Any) -> Any:
    if isinstance(value, Compose):
        try:
            return transforms_key(value.transforms).decode()
        except TypeError:  # unnamed functions cannot be compared
            return str(uuid.uuid4())
    if isinstance(value, PromptParser):
        return [value.prompt_text, value.max_classes_per_prompt, value.trained_classes]
    if isinstance(value, PromptBank):
        return [_content(value.path), str(getattr(value.encoder, "model", None))]
    if isinstance(value, NoText):
        return []
    if isinstance(value, Inferer):
        return [type(value).__qualname__, {name: str(part) for name, part in vars(value).items() if _is_plain(part)}]
    is_file = isinstance(value, str | Path) and Path(value).is_file()
    return content_digest(value) if is_file else str(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def pending_requests(
    requests: Sequence[Request], *, output_dir: str | Path, digest: str, overwrite: bool = False
) -> list[Request]:
    """Requests without a result in ``output_dir``, each with the ``settings_digest`` that its summary will carry.

    Without ``overwrite`` the result of another prompt, image or settings is not replaced.

    Args:
        requests: see ``list_requests``.
        output_dir: where the result folders are.
        digest: see ``settings_digest``.
        overwrite: repeat all of them.

    Raises:
        ValueError: a result that would be replaced.
    """
    requests = [replace(request, settings_digest=digest) for request in requests]
    if overwrite:
        return requests
    found = [_earlier_summary(Path(output_dir) / request.output_name) for request in requests]
    pairs = list(zip(requests, found, strict=True))
    differing = [
        f"{request.output_name} ({' and '.join(why)})"
        for request, summary in pairs
        if summary is not None and (why := _differences(summary, request))
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(
            f"Results are not replaced unless you say so, and {output_dir} holds others: {', '.join(differing[:3])}"
            f"{more}. Choose another --output_dir, or replace them with --overwrite True."
        )
    left = [request for request, summary in pairs if summary is None or _is_detached(request.image)]
    if len(left) < len(requests):
        logger.info(
            "%d of %d skipped: same image, prompt, weights and settings as before. --overwrite True repeats them.",
            len(requests) - len(left),
            len(requests),
        )
    return left


def _earlier_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a result folder of which no file is missing."""
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        known = summary["settings_digest"], summary["prompt"]["asked"], summary["image_sha256"]
        return summary if all(known) and all((folder / name).is_file() for name in summary["files"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _differences(summary: Mapping[str, Any], request: Request) -> list[str]:
    """In what an earlier result is not that of a request."""
    why = []
    if summary["prompt"]["asked"] != request.prompt.text:
        why.append(f"of {summary['prompt']['asked']!r:.60}")
    if summary["settings_digest"] != request.settings_digest:
        why.append("by other weights, settings or another version")
    if not _is_detached(request.image) and summary["image_sha256"] != content_digest(request.image):
        why.append("of other voxels")
    return why


def _is_detached(image: Any) -> bool:
    """Whether the voxels are in another file, whose changes the digest does not show."""
    return str(image).lower().endswith(".nhdr")
