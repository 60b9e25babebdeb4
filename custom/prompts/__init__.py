"""Words to classes, and classes to sentences."""

from custom.prompts.grammar import PromptError
from custom.prompts.request import PromptParser, PromptRequest
from custom.prompts.resolve import resolve_prompt
from custom.prompts.sentences import write_sentence
from custom.prompts.vectors import ClassMeanEncoder, class_vectors

__all__ = [
    "ClassMeanEncoder",
    "PromptError",
    "PromptParser",
    "PromptRequest",
    "class_vectors",
    "resolve_prompt",
    "write_sentence",
]
