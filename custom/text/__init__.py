"""Sentences to vectors: frozen encoders, the prompt bank."""

from custom.text.bank import PromptBank, find_vectors
from custom.text.encoders import create_text_encoder
from custom.text.no_text import NoText

__all__ = ["NoText", "PromptBank", "create_text_encoder", "find_vectors"]
