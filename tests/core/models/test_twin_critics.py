"""Two critics computed as one are two critics."""

import math

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rl.core.models.normalizer import Normalizer
from rl.core.models.spec import PolicySpec
from rl.core.models.twin_critics import TwinCritics

BOX = spaces.Box(-1, 1, (3,))


def critics(outputs: int = 1, inputs: int = 2, normalizer: Normalizer | None = None) -> TwinCritics:
    torch.manual_seed(0)
    return TwinCritics(PolicySpec(BOX, BOX, (16, 8)), inputs, outputs, normalizer)


def alone(twins: TwinCritics, which: int) -> nn.Sequential:
    """One of the two as a plain network."""
    layers: list[nn.Module] = []
    for weight, bias in zip(twins.weights, twins.biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[2])
        linear.weight.data = weight[which].T.detach().clone()
        linear.bias.data = bias[which, 0].detach().clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_each_computes_what_a_network_of_its_own_does() -> None:
    twins = critics()
    observations, actions = torch.randn(7, 3), torch.randn(7, 2)
    values = twins(observations, actions)
    assert values.shape == (2, 7, 1)
    loss: Tensor = values.square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    for which in (0, 1):
        plain = alone(twins, which)
        own = plain(torch.cat((observations, actions), -1))
        torch.testing.assert_close(values[which], own)
        own.square().sum().backward()
        gradient = plain[0].weight.grad
        assert gradient is not None
        assert twins.weights[0].grad is not None
        torch.testing.assert_close(twins.weights[0].grad[which].T, gradient)
    assert not torch.allclose(values[0], values[1])
    torch.testing.assert_close(twins.first(observations, actions), values[0])


def test_a_value_for_every_action_needs_no_action() -> None:
    assert critics(outputs=4, inputs=0)(torch.randn(7, 3)).shape == (2, 7, 4)


def test_they_begin_as_torchs_layers_do() -> None:
    torch.manual_seed(0)
    twins = TwinCritics(PolicySpec(BOX, BOX), 2, 1, None)
    weights, biases = ([p.detach() for p in part] for part in (twins.weights, twins.biases))
    for weight, bias in zip(weights, biases, strict=True):
        bound = 1 / math.sqrt(weight.shape[1])
        assert float(weight.abs().max()) <= bound
        if weight.numel() > 1000:
            assert abs(float(weight.std()) / (bound / math.sqrt(3)) - 1) < 0.05
        assert float(bias.abs().max()) <= bound
        assert not torch.equal(weight[0], weight[1])


def test_they_see_observations_as_the_policy_does() -> None:
    normalizer = Normalizer(3)
    twins = critics(normalizer=normalizer)
    observations, actions = torch.randn(50, 3) * 10 + 5, torch.randn(50, 2)
    normalizer.update(observations)
    plain = critics()
    torch.testing.assert_close(
        twins(observations, actions), plain(normalizer(observations), actions)
    )
    assert [name for name, _ in twins.named_parameters() if "normalizer" in name] == []
