"""Loss for partially labelled targets."""

from typing import Any, NamedTuple

import ignite.distributed as idist
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import nn


class Terms(NamedTuple):
    """Terms of a loss, one value per labelled pair."""

    sample: torch.Tensor  # its index in the batch
    cross_entropy: torch.Tensor
    dice: torch.Tensor  # NaN for a pair that the Dice term leaves out


class PartialLabelLoss(nn.Module):
    """Binary cross-entropy plus soft Dice, averaged over the labelled (sample, class) pairs only.

    For a labelled pair with probabilities p = sigmoid(logits) and target g over N voxels:

        bce_weight * mean(BCE(p, g)) + 1 - (2 sum(p g) + s) / (sum(p) + sum(g) + s)

    With ``bce_balance`` b > 0 the cross-entropy of a structure's voxels is multiplied by (other voxels / its voxels)^b,
    whether the prompt names it (g = 1) or not (UNNAMED, g = 0): small structures weigh as much as large ones, and
    predicting an unnamed structure costs as much as missing a named one. b = 0 is the plain mean; b = 1 gives structure
    and background equal weight.

    A channel with UNKNOWN anywhere counts as unlabelled and contributes neither loss nor gradient. Where nothing is
    labelled the loss is 0 with zero gradient.

    With several processes (``custom.utils.distributed``) each divides the sum over its own pairs by the mean number of
    pairs per process, so that the mean of their losses and gradients, as DistributedDataParallel takes it, equals that
    of one process on the combined batch. All processes must compute the loss at the same time.

    ``terms`` holds the terms of the last call (``Terms``).

    Source: Liu et al., CLIP-Driven Universal Model, arXiv:2301.00785 (masked back-propagation).

    Args:
        bce_weight: weight of the cross-entropy against the Dice term.
        smooth: s, in voxels.
        bce_balance: b, in [0, 1].
        dice_of_empty: whether labelled pairs without a target voxel count in the Dice term, as in the references. With
            sampled prompts most pairs are such. Without them short trainings find the organs sooner, and leak more
            (docs/results.md).
    """

    def __init__(
        self, bce_weight: float = 1.0, smooth: float = 1.0, *, bce_balance: float = 0.0, dice_of_empty: bool = True
    ) -> None:
        super().__init__()
        if bce_weight < 0 or smooth <= 0:
            raise ValueError(f"bce_weight must be >= 0 and smooth > 0, not {bce_weight} and {smooth}.")
        if not 0 <= bce_balance <= 1:
            raise ValueError(f"bce_balance must be in [0, 1], not {bce_balance}.")
        self.bce_weight = bce_weight
        self.bce_balance = bce_balance
        self.smooth = smooth
        self.dice_of_empty = dice_of_empty

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {name: getattr(self, name) for name in ("bce_weight", "smooth", "bce_balance", "dice_of_empty")}

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The scalar loss of logits (B, K, H, W, D) and their target of 0, 1, UNNAMED and UNKNOWN, any real dtype.

        Raises:
            ValueError: shapes differ.
        """
        if logits.shape != target.shape:
            raise ValueError(f"Logits {tuple(logits.shape)} and target {tuple(target.shape)} must have one shape.")
        labelled = (target.flatten(2) >= 0).all(dim=2)
        chosen_logits = logits[labelled].float().flatten(1)  # (pairs, voxels)
        chosen_target = target[labelled].flatten(1)
        chosen = (chosen_target == 1).to(chosen_logits.dtype)
        weights = None
        if self.bce_balance:
            structure = chosen_target > 0
            present = structure.sum(1, keepdim=True).clamp_min(1)
            ratio = (structure.shape[1] - present).clamp_min(1) / present
            weights = torch.where(structure, ratio**self.bce_balance, 1.0)
        cross_entropy = F.binary_cross_entropy_with_logits(chosen_logits, chosen, weights, reduction="none").mean(1)
        probability = chosen_logits.sigmoid()
        overlap = (probability * chosen).sum(1)
        dice = 1 - (2 * overlap + self.smooth) / (probability.sum(1) + chosen.sum(1) + self.smooth)
        counted = torch.ones_like(dice, dtype=torch.bool) if self.dice_of_empty else chosen.any(1)
        dice_terms = torch.where(counted, dice.detach(), torch.nan)
        self.terms = Terms(labelled.nonzero()[:, 0], cross_entropy.detach(), dice_terms)
        totals: Any = idist.all_reduce(torch.stack([labelled.sum(), counted.sum()]))
        pairs, dice_pairs = totals.clamp_min(1) / idist.get_world_size()
        loss: torch.Tensor = self.bce_weight * cross_entropy.sum() / pairs + dice[counted].sum() / dice_pairs
        return loss
