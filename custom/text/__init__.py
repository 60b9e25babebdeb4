"""Text: sentences to vectors, and sentences to classes and back."""

from custom.text.bank import MissingPromptError, PromptBank
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
    "MissingPromptError",
    "PromptBank",
    "PromptTooLongError",
    "SentenceEncoder",
    "TextEncoder",
    "TextEncoderUnavailable",
    "create_text_encoder",
]
