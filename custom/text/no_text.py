"""The prompt bank of a network that does not read the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from custom.text.bank import PromptBank


@dataclass
class NoText:
    """A prompt bank of empty vectors, without an encoder; it describes the vectors that the network holds, if any."""

    encoder_id: str | None = None
    kind: str | None = None
    dimension: int = 0

    @classmethod
    def of(cls, bank: PromptBank) -> "NoText":
        """In the place of a bank whose vectors are inside the network."""
        return cls(bank.encoder_id, bank.kind, bank.dimension)

    def __call__(self, prompts: str | Sequence[str]) -> torch.Tensor:
        """Return vectors (P, 0) of P prompts."""
        return torch.empty(1 if isinstance(prompts, str) else len(prompts), 0)
