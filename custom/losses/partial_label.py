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

        bce_weight * mean(BCE(p, g)) + 1 - (2 sum(p g) + smooth_nr) / (sum(p) + sum(g) + smooth_dr)

    With ``smooth_nr`` = 0, as in the Universal Model's code, the Dice term of an empty target is 1 whatever p is, and
    has no gradient. With ``smooth_nr`` = ``smooth_dr`` it pulls p to 0 wherever the target is empty, as it mostly is
    with sampled prompts.

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

    Source: Liu et al., CLIP-Driven Universal Model, arXiv:2301.00785 (masked back-propagation; the Dice of its code,
    with smooth_nr = 0 and smooth_dr = 1).

    Args:
        bce_weight: weight of the cross-entropy against the Dice term.
        smooth_nr: added to the Dice term's numerator, in voxels; the name is MONAI's.
        smooth_dr: added to its denominator, in voxels.
        bce_balance: b, in [0, 1].
        dice_of_empty: whether labelled pairs without a target voxel count in the mean of the Dice term, as in the
            references. docs/results.md has what it does with smooth_nr = 1.
    """

    def __init__(
        self,
        bce_weight: float = 1.0,
        *,
        smooth_nr: float = 0.0,
        smooth_dr: float = 1.0,
        bce_balance: float = 0.0,
        dice_of_empty: bool = True,
    ) -> None:
        super().__init__()
        if bce_weight < 0 or not 0 <= smooth_nr <= smooth_dr or smooth_dr == 0:
            raise ValueError(
                "bce_weight must be >= 0, and smooth_nr from 0 to smooth_dr, which is > 0, not "
                f"{bce_weight}, {smooth_nr} and {smooth_dr}."
            )
        if not 0 <= bce_balance <= 1:
            raise ValueError(f"bce_balance must be in [0, 1], not {bce_balance}.")
        self.bce_weight = bce_weight
        self.bce_balance = bce_balance
        self.smooth_nr = smooth_nr
        self.smooth_dr = smooth_dr
        self.dice_of_empty = dice_of_empty

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments by name."""
        names = ("bce_weight", "smooth_nr", "smooth_dr", "bce_balance", "dice_of_empty")
        return {name: getattr(self, name) for name in names}

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
        dice = 1 - (2 * overlap + self.smooth_nr) / (probability.sum(1) + chosen.sum(1) + self.smooth_dr)
        counted = torch.ones_like(dice, dtype=torch.bool) if self.dice_of_empty else chosen.any(1)
        dice_terms = torch.where(counted, dice.detach(), torch.nan)
        self.terms = Terms(labelled.nonzero()[:, 0], cross_entropy.detach(), dice_terms)
        totals: Any = idist.all_reduce(torch.stack([labelled.sum(), counted.sum()]))
        pairs, dice_pairs = totals.clamp_min(1) / idist.get_world_size()
        loss: torch.Tensor = self.bce_weight * cross_entropy.sum() / pairs + dice[counted].sum() / dice_pairs
        return loss
