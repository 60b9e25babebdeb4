"""Requests as a run makes them, for networks that read no prompt."""

from collections.abc import Sequence
from typing import Any

from custom.anatomy.loading import load_class_set
from custom.engines.requests import Request
from custom.prompts.grammar import Structure
from custom.prompts.request import PromptParser, PromptRequest
from custom.prompts.resolve import Resolution
from custom.text.no_text import NoText

CT = load_class_set()

#: Parses prompts for a network that does not read them.
parse = PromptParser(CT, NoText())


def make_request(image: Any, prompt: Any = "liver", output_name: str = "ct", digest: str = "") -> Request:
    return Request(str(image), parse(prompt), output_name, digest)


def request_of(
    structures: Sequence[Structure],
    *,
    text: str = "liver",
    sentences: Sequence[str] = ("a computerized tomography of liver",),
    **resolution: Any,
) -> PromptRequest:
    """The request for structures, whatever the prompt says."""
    indices = tuple(structure.index for structure in structures)
    found = Resolution(text, indices=indices, matches=(), structures=tuple(structures), **resolution)
    return PromptRequest(found, tuple(sentences), (indices,), "canonical", CT)
