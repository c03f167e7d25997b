"""Noisy layers: golden numbers, the paper's equations, one draw for all rows or one each."""

import math

import pytest
import torch
from torch import nn

from rl.core.models.noisy import LayerNoise, NoisyLinear, noise_size, scaled, through


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(inputs: int = 6, outputs: int = 4) -> NoisyLinear:
    torch.manual_seed(0)
    made = NoisyLinear(inputs, outputs, 0.5)
    with torch.no_grad():
        made.weight_sigma.copy_(drawn(outputs, inputs, seed=1))
        made.bias_sigma.copy_(drawn(outputs, seed=2))
    return made


def test_golden_scaling() -> None:
    assert scaled(torch.tensor([-4.0, 0.25, 0.0])).tolist() == [-2, 0.5, 0]


def test_weights_are_mean_plus_sigma_times_an_outer_product() -> None:
    """Equations 9 to 11 with the matrix written out."""
    noisy, noise, inputs = layer(), drawn(10), drawn(5, 6, seed=3)
    f = noise.sign() * noise.abs().sqrt()
    weight = noisy.weight + noisy.weight_sigma * torch.outer(f[6:], f[:6])
    bias = noisy.bias + noisy.bias_sigma * f[6:]
    expected = inputs @ weight.T + bias
    torch.testing.assert_close(noisy(inputs, scaled(noise)), expected)
    torch.testing.assert_close(noisy(inputs), inputs @ noisy.weight.T + noisy.bias)


def test_each_row_may_have_its_own_noise() -> None:
    noisy, noise, inputs = layer(), drawn(5, 10), drawn(5, 6, seed=3)
    together = noisy(inputs, scaled(noise))
    for row in range(5):
        alone = noisy(inputs[row : row + 1], scaled(noise[row]))
        torch.testing.assert_close(together[row : row + 1], alone)


def test_it_begins_as_the_paper_says() -> None:
    torch.manual_seed(0)
    noisy = NoisyLinear(64, 500, 0.5)
    bound = 1 / math.sqrt(64)
    for mean in (noisy.weight, noisy.bias):
        assert mean.abs().max() <= bound
        assert mean.abs().max() > 0.95 * bound
        assert mean.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    for sigma in (noisy.weight_sigma, noisy.bias_sigma):
        assert set(sigma.flatten().tolist()) == {0.5 / 8}


def test_sigma_is_learnt() -> None:
    noisy = layer()
    noisy(drawn(5, 6), scaled(drawn(10))).square().sum().backward()
    for parameter in noisy.parameters():
        assert parameter.grad is not None
        assert (parameter.grad != 0).all()


def test_layers_take_their_noise_one_behind_the_other() -> None:
    first, second = layer(6, 4), layer(4, 3)
    network = nn.Sequential(nn.Sequential(first, nn.ReLU()), nn.Linear(4, 4), second)
    assert noise_size(network) == 10 + 7
    noise, inputs = drawn(17), drawn(5, 6, seed=3)
    hidden = network[1](first(inputs, scaled(noise[:10])).relu())
    expected = second(hidden, scaled(noise[10:]))
    torch.testing.assert_close(through(network, inputs, LayerNoise(noise)), expected)
    torch.testing.assert_close(through(network, inputs, None), network(inputs))
