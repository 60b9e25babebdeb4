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

import monai
import torch
from monai.inferers import Inferer
from monai.transforms import Compose

import custom
from custom.anatomy.class_set import ClassSet
from custom.datasets.cache_keys import canonical
from custom.engines.requests import Request
from custom.outputs.result_folder import differences
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

    Of a device its kind counts, and whether it computes in bfloat16; of a file among the settings, its content; of
    transforms, an inferer, a parser and a bank, their parameters.
    """
    content = {
        "software": [_program_digest(), torch.__version__, monai.__version__],
        "weights": content_digest(weights),
        "class_set": asdict(class_set),
        "device": [torch.device(device).type, computes_bfloat16(torch.device(device))],
        "settings": {key: _content(value) for key, value in settings.items()},
    }
    return hashlib.sha256(json.dumps(canonical(content)).encode()).hexdigest()


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
            return canonical(value.transforms)
        except TypeError:  # unnamed functions cannot be compared
            return str(uuid.uuid4())
    if isinstance(value, PromptBank):
        return [_content(value.path), str(getattr(value.encoder, "model", None))]
    if isinstance(value, Inferer | PromptParser | NoText):
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

    With ``overwrite`` these are all.

    Raises:
        ValueError: a result of another prompt, image or settings, which would be replaced.
    """
    requests = [replace(request, settings_digest=digest) for request in requests]
    if overwrite:
        return requests
    found = [(request, differences(Path(output_dir) / request.output_name, request)) for request in requests]
    differing = [f"{request.output_name} ({' and '.join(why)})" for request, why in found if why]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(
            f"Results are not replaced unless you say so, and {output_dir} holds others: {', '.join(differing[:3])}"
            f"{more}. Choose another --output_dir, or replace them with --overwrite True."
        )
    left = [request for request, why in found if why is None]
    if skipped := len(requests) - len(left):
        same = "same image, prompt, weights and settings as before. --overwrite True repeats them."
        logger.info("%d of %d skipped: %s", skipped, len(requests), same)
    return left
