"""Sentences to vectors: frozen text encoders, and the prompt bank that stores their vectors.

To add a text encoder: a class with the four members of `encoders.TextEncoder`, its dimension in `_DIMENSIONS`, and its
branch in `create_text_encoder`; its id is then valid for `--text_encoder`.
"""

from custom.text.bank import PromptBank, find_vectors
from custom.text.encoders import create_text_encoder
from custom.text.no_text import NoText

__all__ = ["NoText", "PromptBank", "create_text_encoder", "find_vectors"]
