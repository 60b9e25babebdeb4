"""The prompt bank of a network that does not read the prompt."""

from collections.abc import Sequence

import torch

from custom.text.bank import PromptBank


class NoText:
    """A prompt bank of empty vectors, without an encoder.

    Args:
        encoder_id: encoder of the vectors that the network itself holds, if any.
        kind: kind of these vectors.
        dimension: length of these vectors.
    """

    def __init__(self, encoder_id: str | None = None, kind: str | None = None, dimension: int = 0) -> None:
        self.encoder_id = encoder_id
        self.kind = kind
        self.dimension = dimension

    @classmethod
    def of(cls, bank: PromptBank) -> "NoText":
        """In the place of a bank whose vectors are inside the network."""
        return cls(bank.encoder_id, bank.kind, bank.dimension)

    def __call__(self, prompts: str | Sequence[str]) -> torch.Tensor:
        """Return vectors (P, 0) of P prompts."""
        return torch.empty(1 if isinstance(prompts, str) else len(prompts), 0)
