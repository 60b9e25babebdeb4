import pytest
import torch

from custom.networks.film import FiLM, ResidualFiLM


def test_film_is_gamma_times_x_plus_beta() -> None:
    torch.manual_seed(0)
    film = FiLM(text_dim=5, channels=3)
    x, text = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 5)
    gamma = text @ film.gamma.weight.T + film.gamma.bias
    beta = text @ film.beta.weight.T + film.beta.bias
    expected = torch.einsum("bc,bchwd->bchwd", gamma, x) + beta[:, :, None, None, None]
    torch.testing.assert_close(film(x, text), expected)


def test_residual_film_adds_the_modulation_normalised_over_channels() -> None:
    torch.manual_seed(0)
    film = ResidualFiLM(text_dim=5, channels=3)
    torch.nn.init.normal_(film.norm.weight)
    torch.nn.init.normal_(film.norm.bias)
    x, text = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 5)
    gamma = text @ film.gamma.weight.T + film.gamma.bias
    beta = text @ film.beta.weight.T + film.beta.bias
    modulated = torch.einsum("bc,bchwd->bchwd", gamma, x) + beta[:, :, None, None, None]
    centred = modulated - modulated.mean(dim=1, keepdim=True)
    normalised = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    affine = [parameter[None, :, None, None, None] for parameter in (film.norm.weight, film.norm.bias)]
    torch.testing.assert_close(film(x, text), x + normalised * affine[0] + affine[1])


def test_residual_film_with_a_zero_norm_changes_nothing() -> None:
    film = ResidualFiLM(text_dim=5, channels=3)
    torch.nn.init.zeros_(film.norm.weight)
    x = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(film(x, torch.randn(2, 5)), x)


@pytest.mark.parametrize("block", [FiLM, ResidualFiLM])
def test_film_weights_start_xavier_uniform(block: type[FiLM]) -> None:
    torch.manual_seed(0)
    film = block(text_dim=384, channels=96)
    bound = (6 / (384 + 96)) ** 0.5
    for linear in (film.gamma, film.beta):
        assert linear.weight.abs().max() <= bound
        assert linear.weight.std().item() > 0.95 * bound / 3**0.5
        assert linear.bias.abs().max() > 0


@pytest.mark.parametrize("block", [FiLM, ResidualFiLM])
def test_one_vector_serves_the_whole_batch(block: type[FiLM]) -> None:
    torch.manual_seed(0)
    film = block(text_dim=5, channels=3)
    x, text = torch.randn(2, 3, 4, 4, 4), torch.randn(1, 5)
    torch.testing.assert_close(film(x, text), film(x, text.expand(2, -1)))
