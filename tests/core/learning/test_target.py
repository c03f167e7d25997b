"""Target networks follow at the pace they are told, in arrays as in tensors."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rl.core.learning.flat import FlatParameters
from rl.core.learning.target import TargetNetwork
from tests.by_hand import BY_HAND


def of_network(seed: int = 0) -> tuple[nn.Linear, FlatParameters, TargetNetwork[nn.Linear]]:
    torch.manual_seed(seed)
    network = nn.Linear(70, 33)
    flat = FlatParameters(network.parameters(), 0.1)
    return network, flat, TargetNetwork(flat, lambda: network)


@pytest.mark.parametrize("engine", ["torch", *BY_HAND])
@pytest.mark.parametrize("share", [0.0, 0.005, 0.7, 1.0])
def test_it_goes_its_share_of_the_way(engine: str, share: float) -> None:
    _, flat, target = of_network()
    flat.compiled = engine == "compiled"
    before = target.array.copy()
    assert np.array_equal(before, flat.array)
    flat.array += np.random.default_rng().normal(size=len(before)).astype(np.float32)
    now = flat.array.copy()
    target.follow(share, engine != "torch")
    expected = before.astype(np.float64) + share * (now.astype(np.float64) - before)
    np.testing.assert_allclose(target.array, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(flat.array, now), "it is followed, and does not follow"
    if share == 1:
        assert np.array_equal(target.array, now), "a copy is one to the bit"


def test_the_module_sees_what_the_vector_is_and_wants_no_gradients() -> None:
    network, flat, target = of_network()
    flat.array[...] = 2
    target.follow(0.5, True)
    inputs = torch.ones(1, 70)
    before = target.module(inputs)
    assert torch.equal(target.vector, torch.from_numpy(target.array))
    assert not torch.equal(before, network(inputs))
    target.follow(1.0, True)
    assert torch.equal(target.module(inputs), network(inputs))
    target.array[...] = 0
    assert not target.module(inputs).any()
    assert network(inputs).any()
    assert not any(p.requires_grad for p in target.module.parameters())
    assert target.state is target.array


def test_on_a_gpu_it_has_tensors_from_the_beginning() -> None:
    """Nothing may be made while a graph is recorded, nor later than the network learns."""
    network, real, _ = of_network()
    flat: Any = SimpleNamespace(on_host=False, vector=real.vector)
    target = TargetNetwork(flat, lambda: network)
    assert {"vector", "module"} <= vars(target).keys()
    began = real.vector.clone()
    real.array[...] = 3
    assert torch.equal(target.vector, began)
    target.follow(0.5, by_hand=False)
    torch.testing.assert_close(target.vector, (began + 3) / 2)
    assert torch.equal(target.module.weight.reshape(-1), target.vector[: 70 * 33])
    assert target.state is target.vector
