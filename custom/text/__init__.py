"""Text: sentences to vectors, and sentences to classes and back."""

from custom.text.bank import MissingPromptError, PromptBank, find_vectors, vectors_beside
from custom.text.classes import ClassMeanEncoder, NoText, class_vectors
from custom.text.encoders import (
    CLIPTextEncoder,
    PromptTooLongError,
    SentenceEncoder,
    TextEncoder,
    TextEncoderUnavailable,
    create_text_encoder,
)

__all__ = [
    "CLIPTextEncoder",
    "ClassMeanEncoder",
    "MissingPromptError",
    "NoText",
    "PromptBank",
    "PromptTooLongError",
    "SentenceEncoder",
    "TextEncoder",
    "TextEncoderUnavailable",
    "class_vectors",
    "create_text_encoder",
    "find_vectors",
    "vectors_beside",
]
