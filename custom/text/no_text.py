"""What stands for a prompt bank where the network does not read the prompt."""

from collections.abc import Sequence

import torch


class NoText:
    """A prompt bank of empty vectors, without an encoder.

    Args:
        encoder_id: the encoder of vectors inside the network, if it has any.
        kind: theirs.
        dimension: theirs.
    """

    def __init__(self, encoder_id: str | None = None, kind: str | None = None, dimension: int = 0) -> None:
        self.encoder_id = encoder_id
        self.kind = kind
        self.dimension = dimension

    def __call__(self, prompts: str | Sequence[str]) -> torch.Tensor:
        """Vectors (P, 0) of P prompts."""
        return torch.empty(1 if isinstance(prompts, str) else len(prompts), 0)
