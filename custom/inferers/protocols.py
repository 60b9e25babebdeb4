"""What inference needs of a network."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch


class PromptedNetwork(Protocol):
    """A network that separates what depends on text from what does not, as ``FiLMSwinUNETR`` does."""

    def encode(self, image: torch.Tensor) -> Any:
        """All that does not depend on text, for (B, C, H, W, D): one or several tensors."""

    def decode(
        self, features: Any, text: torch.Tensor | None = None, *, channels: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits (B, K, H, W, D) under text (B, E), (1, E) or the default prompt; of some channels, or of all."""

    def __call__(self, image: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B, K, H, W, D) under text (B, E), (1, E) or the default prompt."""


@runtime_checkable
class TwoStageNetwork(Protocol):
    """A network whose features are a few large tensors that are cheap to compute, and then small, costly ones."""

    def encode_high_res(self, image: torch.Tensor) -> Sequence[torch.Tensor]:
        """The large ones, which ``encode`` returns first."""

    def encode_low_res(self, image: torch.Tensor) -> Sequence[torch.Tensor]:
        """The others, in their order."""
