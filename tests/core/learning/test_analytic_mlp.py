from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rl.core.data.tree import Array
from rl.core.learning.analytic_mlp import ACTIVATIONS, linear_names, make_mlp
from rl.core.models.modules import mlp
from tests.by_hand import BY_HAND


def both(
    engine: str, activation: str, head: bool, sizes: tuple[int, ...] = (16, 8)
) -> tuple[Any, ...]:
    """A torch network, its analytic form, and where that writes gradients; nan before."""
    network = nn.Sequential(mlp(5, sizes, activation, orthogonal=False))
    names = linear_names("0", len(sizes))
    if head:
        network.append(nn.Linear(sizes[-1], 3))
        names.append("1")
    parameters = {name: p.detach().numpy() for name, p in network.named_parameters()}
    gradients = {name: np.full_like(p, np.nan) for name, p in parameters.items()}
    return network, make_mlp(engine, names, parameters, gradients, activation, head), gradients


def close(ours: Array, theirs: Any) -> None:
    scale = max(1.0, float(theirs.abs().max()))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("head", [True, False])
def test_values_and_every_gradient_are_those_of_torch(
    engine: str, activation: str, head: bool
) -> None:
    network, analytic, gradients = both(engine, activation, head)
    for rows in (7, 1, 30, 7):  # arrays of a size are used again
        inputs = 3 * torch.randn(rows, 5)
        inputs.requires_grad_()
        outputs = network(inputs)
        seen = torch.randn(outputs.shape)
        network.zero_grad()
        (outputs * seen).sum().backward()
        close(analytic.forward(inputs.detach().numpy()), outputs.detach())
        back = analytic.backward(seen.numpy().copy(), to_inputs=True)
        close(back, inputs.grad)
        for name, parameter in network.named_parameters():
            close(gradients[name], parameter.grad)


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_large_inputs_give_neither_nan_nor_a_warning(engine: str, activation: str) -> None:
    network, analytic, _ = both(engine, activation, head=False)
    inputs = torch.full((2, 5), 1e4, requires_grad=True)
    inputs.data[1] *= -1
    outputs = network(inputs)
    outputs.sum().backward()
    close(analytic.forward(inputs.detach().numpy()), outputs.detach())
    close(analytic.backward(np.ones(outputs.shape, np.float32), to_inputs=True), inputs.grad)


@pytest.mark.parametrize("engine", BY_HAND)
def test_a_step_of_the_parameters_is_seen_without_a_call(engine: str) -> None:
    network, analytic, _ = both(engine, "tanh", head=True)
    inputs = torch.randn(4, 5)
    before = analytic.forward(inputs.numpy()).copy()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
        close(analytic.forward(inputs.numpy()), network(inputs))
    assert not np.allclose(before, analytic.forward(inputs.numpy()))


@pytest.mark.parametrize("engine", BY_HAND)
def test_gradients_at_the_inputs_alone_leave_the_parameters_alone(engine: str) -> None:
    _, analytic, gradients = both(engine, "relu", head=True)
    analytic.forward(np.ones((2, 5), np.float32))
    analytic.backward(np.ones((2, 3), np.float32), to_inputs=True, parameters=False)
    assert all(np.isnan(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize("engine", BY_HAND)
def test_without_layers_it_is_the_identity(engine: str) -> None:
    empty = make_mlp(engine, [], {}, {}, "tanh")
    rows = np.ones((2, 3), np.float32)
    assert empty.forward(rows) is rows
    assert empty.backward(rows, to_inputs=True) is rows
