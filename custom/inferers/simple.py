"""One forward pass on a whole batch, as in training."""

from dataclasses import dataclass

import torch
from monai.inferers import Inferer

from custom.inferers.protocols import PromptedNetwork
from custom.utils.precision import autocast


@dataclass(eq=False, kw_only=True)
class PromptedInferer(Inferer):
    """One forward pass on a whole batch.

    Args:
        amp: use bfloat16 where the device computes in it natively.
    """

    amp: bool = True

    def __call__(
        self, inputs: torch.Tensor, network: PromptedNetwork, text: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits (B, K, H, W, D) float32 of images (B, C, H, W, D) under text (B, E) or the default prompt."""
        with autocast(inputs.device, amp=self.amp):
            logits = network(inputs, text)
        return logits.float()
