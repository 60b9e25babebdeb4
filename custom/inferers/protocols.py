"""What the inferers need of a network."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch


class PromptedNetwork(Protocol):
    """A network that encodes images independently of text, as ``FiLMSwinUNETR`` does."""

    def encode(self, image: torch.Tensor) -> Any:
        """Features of images (B, C, H, W, D), independent of text: one or several tensors."""

    def decode(
        self, features: Any, text: torch.Tensor | None = None, *, channels: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits (B, K, H, W, D) of all or some channels under text (B, E) or (1, E); None is the default prompt."""

    def __call__(self, image: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """``decode(encode(image), text)``."""


@runtime_checkable
class TwoStageNetwork(Protocol):
    """A network whose features are two large tensors that are cheap to compute, then small ones that are costly."""

    def encode_high_res(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The large ones, which ``encode`` returns first."""
