"""Feature-wise linear modulation of image features by a text vector."""

import torch
from torch import nn


class FiLM(nn.Module):
    """Scale and shift every channel of a feature map by affine functions of a text vector.

    y[b, c] = gamma(t)[b, c] * x[b, c] + beta(t)[b, c], where gamma and beta are linear maps E -> C.
    There is no normalisation and no residual. Weights are initialised Xavier uniform, biases with PyTorch's default.
    ``text_dim`` is E, the length of a text vector; ``channels`` is C.

    Source: Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer, arXiv:1709.07871.
    """

    def __init__(self, text_dim: int, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Linear(text_dim, channels)
        self.beta = nn.Linear(text_dim, channels)
        nn.init.xavier_uniform_(self.gamma.weight)
        nn.init.xavier_uniform_(self.beta.weight)

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Modulate ``x`` (B, C, H, W, D) by ``text`` (B, E) or (1, E); the result has the shape of ``x``."""
        per_channel = (-1, x.shape[1]) + (1,) * (x.ndim - 2)
        modulated: torch.Tensor = self.gamma(text).view(per_channel) * x + self.beta(text).view(per_channel)
        return modulated


class ResidualFiLM(FiLM):
    """Add to a feature map its FiLM modulation, layer-normalised over channels; arguments as for ``FiLM``.

    y = x + LayerNorm_C(gamma(t) * x + beta(t)), with mean and variance over the C channels of each voxel (eps 1e-5,
    affine). With zero weight and bias of the normalisation, y = x.

    Source: FiLM, arXiv:1709.07871; Ba et al., Layer Normalization, arXiv:1607.06450; combined in Deep FiLM 2 (Kapoor,
    University of Florida, 2024).
    """

    def __init__(self, text_dim: int, channels: int) -> None:
        super().__init__(text_dim, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Modulate ``x`` (B, C, H, W, D) by ``text`` (B, E) or (1, E); the result has the shape of ``x``."""
        result: torch.Tensor = x + self.norm(super().forward(x, text).movedim(1, -1)).movedim(-1, 1)
        return result
