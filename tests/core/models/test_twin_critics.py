"""Two critics computed as one are two critics."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rl.core.models.normalizer import Normalizer
from rl.core.models.plain_critics import PlainTwinCritics
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


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 1), (0, 4)])
@pytest.mark.parametrize("hidden", [(), (16, 8)])
def test_plain_ones_are_the_module_in_arrays(
    inputs: int, outputs: int, hidden: tuple[int, ...]
) -> None:
    space = spaces.Dict(a=spaces.Discrete(4), b=BOX)
    spec = PolicySpec(space, BOX, hidden, normalize_observations=True)
    plain = PlainTwinCritics(spec, inputs, outputs, np.random.default_rng(0))
    drawn, state = plain.vector.copy(), torch.get_rng_state()
    normalizer = Normalizer(7)
    module = plain.build(normalizer)
    assert torch.equal(torch.get_rng_state(), state), "it draws nothing from others' stream"
    assert module.encoder.normalizer is normalizer
    own = TwinCritics(spec, inputs, outputs, None)
    shapes = {name: tuple(p.shape) for name, p in own.named_parameters()}
    assert dict(plain.table.shapes) == shapes
    assert [*plain.table.shapes] == [*shapes], "in the same order"
    flat = np.concatenate([p.detach().numpy().reshape(-1) for p in module.parameters()])
    assert np.array_equal(flat, drawn)
    plain.vector[...] = 0
    assert not any(p.any() for p in module.parameters()), "the same memory"


def test_plain_ones_begin_as_torchs_layers_do() -> None:
    plain = PlainTwinCritics(PolicySpec(BOX, BOX, (256, 256)), 6, 1, np.random.default_rng(0))
    for name, array in plain.table.views(plain.vector).items():
        inputs = {"0": 9, "1": 256, "2": 256}[name[-1]]
        bound = 1 / math.sqrt(inputs)
        assert np.abs(array).max() <= bound
        if array.size > 500:
            assert np.abs(array).max() > 0.98 * bound
            assert array.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not np.array_equal(array[0], array[1])
    again = PlainTwinCritics(PolicySpec(BOX, BOX, (256, 256)), 6, 1, np.random.default_rng(0))
    assert np.array_equal(again.vector, plain.vector)
