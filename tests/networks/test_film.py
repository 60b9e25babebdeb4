import torch

from custom.networks import FiLM


def test_film_is_gamma_times_x_plus_beta() -> None:
    torch.manual_seed(0)
    film = FiLM(text_dim=5, channels=3)
    x, text = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 5)
    gamma = text @ film.gamma.weight.T + film.gamma.bias
    beta = text @ film.beta.weight.T + film.beta.bias
    expected = torch.einsum("bc,bchwd->bchwd", gamma, x) + beta[:, :, None, None, None]
    torch.testing.assert_close(film(x, text), expected)


def test_film_weights_start_xavier_uniform() -> None:
    torch.manual_seed(0)
    film = FiLM(text_dim=384, channels=96)
    bound = (6 / (384 + 96)) ** 0.5
    for linear in (film.gamma, film.beta):
        assert linear.weight.abs().max() <= bound
        assert linear.weight.std().item() > 0.95 * bound / 3**0.5
        assert linear.bias.abs().max() > 0


def test_one_vector_serves_the_whole_batch() -> None:
    torch.manual_seed(0)
    film = FiLM(text_dim=5, channels=3)
    x, text = torch.randn(2, 3, 4, 4, 4), torch.randn(1, 5)
    torch.testing.assert_close(film(x, text), film(x, text.expand(2, -1)))
