"""The partial-label loss against a loop over (sample, class) pairs, and its edge cases."""

from typing import Any

import pytest
import torch

from custom.datasets.labels import UNKNOWN, UNNAMED
from custom.losses.partial_label import PartialLabelLoss

SHAPE = (3, 4, 5, 6, 2)  # (B, K, H, W, D)


def random_case(seed: int, unknown: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and a target in which a channel is UNKNOWN with that probability."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(SHAPE, generator=generator)
    target = (torch.rand(SHAPE, generator=generator) < 0.3).to(torch.int8)
    target[torch.rand(SHAPE[:2], generator=generator) < unknown] = UNKNOWN
    return logits.requires_grad_(), target


def naive(
    logits: torch.Tensor, target: torch.Tensor, bce_weight: float, smooth_nr: float, balance: float = 0
) -> torch.Tensor:
    terms = []
    for sample in range(target.shape[0]):
        for channel in range(target.shape[1]):
            g = target[sample, channel].double()
            if (g == UNKNOWN).any():
                continue
            p = torch.sigmoid(logits[sample, channel].double())
            weight = ((1 - g).sum() / g.sum()) ** balance
            cross_entropy = -(weight * g * p.log() + (1 - g) * (1 - p).log()).mean()
            dice = 1 - (2 * (p * g).sum() + smooth_nr) / (p.sum() + g.sum() + 1)
            terms.append(bce_weight * cross_entropy + dice)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("bce_weight", "smooth_nr", "unknown"), [(1, 0, 0), (1, 1, 0.5), (0.25, 0, 0.5), (0, 1, 0.7)])
def test_the_loss_is_the_mean_over_labelled_pairs(
    seed: int, bce_weight: float, smooth_nr: float, unknown: float
) -> None:
    logits, target = random_case(seed, unknown)
    assert (target >= 0).any()
    expected = naive(logits, target, bce_weight, smooth_nr)
    (wanted,) = torch.autograd.grad(expected, logits)
    loss = PartialLabelLoss(bce_weight, smooth_nr=smooth_nr)(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, expected.float())
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_balancing_weights_target_voxels_by_their_rarity(balance: float) -> None:
    logits, target = random_case(5, 0.5)
    loss = PartialLabelLoss(3, bce_balance=balance)(logits, target)
    torch.testing.assert_close(loss, naive(logits, target, 3, 0, balance).float())


def test_unnamed_structures_have_target_0_and_the_weight_of_named_ones() -> None:
    logits, target = random_case(6, 0)
    unnamed = target.clone()
    unnamed[:, 1] *= UNNAMED
    zeroed = target.clone()
    zeroed[:, 1] = 0
    torch.testing.assert_close(PartialLabelLoss()(logits, unnamed), PartialLabelLoss()(logits, zeroed))

    plain, balanced = (
        torch.autograd.grad(PartialLabelLoss(bce_balance=balance)(logits, unnamed), logits)[0] for balance in (0.0, 1.0)
    )
    here, named = unnamed == UNNAMED, unnamed == 1
    assert (balanced[here] > 1.5 * plain[here]).all()  # 0.3 of the voxels: 7 / 3 of the cross-entropy's gradient
    assert (balanced[named] < plain[named]).all()
    rest = ~here & ~named
    torch.testing.assert_close(balanced[rest], plain[rest])


def test_balancing_does_not_change_empty_targets() -> None:
    logits, target = torch.randn(1, 1, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4)
    assert PartialLabelLoss(bce_balance=1.0)(logits, target) == PartialLabelLoss()(logits, target)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32, torch.int64])
def test_unknown_channels_get_exactly_no_gradient(dtype: torch.dtype) -> None:
    logits, target = random_case(3, 0.5)
    PartialLabelLoss()(logits, target.to(dtype)).backward()
    assert logits.grad is not None
    unknown = (target == UNKNOWN).flatten(2).any(2)
    assert 0 < unknown.sum() < unknown.numel()
    assert not logits.grad[unknown].any()
    assert (logits.grad[~unknown] != 0).all()


def test_one_unknown_voxel_makes_a_channel_unknown() -> None:
    logits, target = random_case(4, 0)
    target[1, 2, 0, 0, 0] = UNKNOWN
    whole = target.clone()
    whole[1, 2] = UNKNOWN
    torch.testing.assert_close(PartialLabelLoss()(logits, target), PartialLabelLoss()(logits, whole), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e38, float("inf")])
def test_where_nothing_is_labelled_the_loss_is_zero(scale: float) -> None:
    logits = (torch.rand(SHAPE).add(1) * scale).requires_grad_()
    loss = PartialLabelLoss()(logits, torch.full(SHAPE, UNKNOWN))
    assert loss.shape == ()
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("logit", [-6e4, 6e4])
def test_extreme_logits_stay_finite(logit: float, value: int, dtype: torch.dtype) -> None:
    logits = torch.full((1, 1, 16, 16, 16), logit, dtype=dtype, requires_grad=True)
    loss = PartialLabelLoss(smooth_nr=1)(logits, torch.full(logits.shape, value))
    loss.backward()
    assert logits.grad is not None
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    right = (logit > 0) == (value == 1)
    assert (loss < 1e-3) if right else (loss > 1e4)


@pytest.mark.parametrize("shape", [(3, 4, 5, 6, 3), (3, 1, 5, 6, 2), (1, 4, 5, 6, 2)])
def test_shapes_must_agree(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        PartialLabelLoss()(torch.zeros(SHAPE), torch.zeros(shape))


@pytest.mark.parametrize(("bce_weight", "smooth_nr", "smooth_dr"), [(-1, 0, 1), (1, -1, 1), (1, 2, 1), (1, 0, 0)])
def test_weight_and_smoothing_out_of_range_are_refused(bce_weight: float, smooth_nr: float, smooth_dr: float) -> None:
    with pytest.raises(ValueError, match="bce_weight must be >= 0, and smooth_nr from 0 to smooth_dr"):
        PartialLabelLoss(bce_weight, smooth_nr=smooth_nr, smooth_dr=smooth_dr)


def test_the_dice_of_an_empty_target_is_the_references() -> None:
    """1 - 2 sum(p g) / (sum(p) + sum(g) + 1): without a target voxel it is 1, and has no gradient."""
    logits = torch.full((1, 1, 4, 4, 4), -12.0, requires_grad=True)
    target = torch.zeros(1, 1, 4, 4, 4)
    (gradient,) = torch.autograd.grad(PartialLabelLoss(bce_weight=0)(logits, target), logits)
    assert not gradient.any()
    loss = PartialLabelLoss(bce_weight=0, smooth_nr=1)
    (gradient,) = torch.autograd.grad(loss(logits, target), logits)
    assert (gradient > 0).all()
    mass = float(logits.detach().sigmoid().sum())
    assert float(loss(logits.detach(), target)) == pytest.approx(1 - 1 / (mass + 1), abs=1e-6)


@pytest.mark.parametrize("balance", [-0.1, 1.1])
def test_balance_must_be_a_fraction(balance: float) -> None:
    with pytest.raises(ValueError, match=rf"bce_balance must be in \[0, 1\], not {balance}"):
        PartialLabelLoss(bce_balance=balance)


def test_settings_build_an_equal_loss() -> None:
    settings: dict[str, Any] = {
        "bce_weight": 2.0,
        "smooth_nr": 0.5,
        "smooth_dr": 3.0,
        "bce_balance": 0.5,
        "dice_of_empty": False,
    }
    assert PartialLabelLoss(**settings).settings == settings
    assert PartialLabelLoss(**PartialLabelLoss().settings).settings == PartialLabelLoss().settings
