"""A text encoder without a download, and the classes that a prompt names."""

from collections.abc import Sequence

import torch


class LetterCounts:
    """A text encoder small enough to read: how often each letter occurs."""

    encoder_id = "letters"
    kind = "counts"
    dimension = 26

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(prompt.lower().count(chr(97 + i))) for i in range(26)] for prompt in prompts])


def classes(named: torch.Tensor) -> list[int]:
    return [int(channel) + 1 for channel in named.nonzero().flatten()]
