"""The numpy actor against its definition, `ActorCritic.act`."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rl.core.data.tree import Array, Tree, tree_map
from rl.core.data.weights import Weights
from rl.core.models.actor import actor_factory, draw_noise
from rl.core.models.modules import ActorCritic
from rl.core.models.numpy_mlp import NumpyActor
from rl.core.models.spec import ACTIVATIONS, Activation, NetworkSpec
from rl.core.models.torch_actor import TorchActor

B = 16

OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-5, 5, (3,), np.float32),
    "matrix": spaces.Box(-5, 5, (2, 3), np.float64),
    "scalar": spaces.Box(-5, 5, (), np.float32),
    "bytes": spaces.Box(0, 255, (6,), np.uint8),
    "discrete": spaces.Discrete(5, start=-2),
    "multi_discrete": spaces.MultiDiscrete(np.array([[2, 3], [4, 2]]), start=[[1, 0], [0, -1]]),
    "multi_binary": spaces.MultiBinary([2, 3]),
    "nested": spaces.Dict(
        {
            "a": spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(-1, 1, (2,), np.float64)]),
            "b": spaces.MultiBinary(2),
        }
    ),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4, start=3),
    "multi_discrete": spaces.MultiDiscrete([2, 3, 4]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,)),
    "one box": spaces.Box(-1, 1, ()),
    "nested": spaces.Dict(
        {
            "a": spaces.Box(-1, 1, (2,)),
            "b": spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (1,), np.float64)]),
            "c": spaces.MultiBinary(2),
        }
    ),
}


def random_module(spec: NetworkSpec) -> ActorCritic:
    """Weights far larger than the first ones, so that the policy is not nearly uniform."""
    torch.manual_seed(0)
    module = ActorCritic(spec)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return module


def weights_of(module: ActorCritic) -> Weights:
    vector = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()
    return Weights(1, vector, {name: b.numpy().copy() for name, b in module.named_buffers()})


def sample_observations(module: ActorCritic, count: int) -> Tree:
    space = module.observation_layout.space
    space.seed(11)
    return module.observation_layout.stack([space.sample() for _ in range(count)])


def tensors(tree: Tree) -> Any:
    return tree_map(torch.tensor, tree)


def assert_agree(spec: NetworkSpec) -> None:
    module = random_module(spec)
    if spec.normalize_observations:
        module.observe(tensors(sample_observations(module, 50)))
    actor = NumpyActor(spec, module.parameter_table())
    actor.set_weights(weights_of(module))
    observations = sample_observations(module, B)
    noise = draw_noise(module.action_layout, np.random.default_rng(5), B)
    with torch.no_grad():
        expected, extras = module.act(tensors(observations), torch.tensor(noise))
        greedy, nothing = module.act(tensors(observations), None)
    actions, own = actor.act(observations, noise)
    assert_same(actions, expected.numpy())
    assert own.keys() == extras.keys() == {"log_prob"}
    assert own["log_prob"].dtype == np.float32
    np.testing.assert_allclose(own["log_prob"], extras["log_prob"].numpy(), rtol=1e-5, atol=1e-5)
    best, none = actor.act(observations, None)
    assert_same(best, greedy.numpy())
    assert none == nothing == {}


def assert_same(actions: Array, expected: Array) -> None:
    assert actions.dtype == expected.dtype
    assert actions.shape == expected.shape
    if actions.dtype == np.int64:
        assert np.array_equal(actions, expected)
    else:
        np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("normalize", [False, True])
def test_numpy_acts_as_torch_does_in_every_space(
    observations: str, actions: str, normalize: bool
) -> None:
    for hidden_sizes in ((), (7, 5)):
        assert_agree(
            NetworkSpec(
                OBSERVATIONS[observations],
                ACTIONS[actions],
                hidden_sizes,
                normalize_observations=normalize,
            )
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shared_torso", [False, True])
def test_numpy_acts_as_torch_does_with_every_activation(
    activation: Activation, shared_torso: bool
) -> None:
    for actions in ACTIONS.values():
        for observations in (OBSERVATIONS["box"], OBSERVATIONS["nested"]):
            assert_agree(
                NetworkSpec(observations, actions, (7, 5), activation, shared_torso=shared_torso)
            )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("actions", ["discrete", "multi_binary"])
def test_extreme_outputs_give_finite_log_probabilities_and_no_warning(
    activation: Activation, actions: str
) -> None:
    spec = NetworkSpec(OBSERVATIONS["box"], ACTIONS[actions], (7,), activation)
    module = random_module(spec)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(500)
    actor = NumpyActor(spec, module.parameter_table())
    actor.set_weights(weights_of(module))
    observations = sample_observations(module, B)
    noise = draw_noise(module.action_layout, np.random.default_rng(5), B)
    with torch.no_grad():
        expected, extras = module.act(tensors(observations), torch.tensor(noise))
    chosen, own = actor.act(observations, noise)
    assert np.array_equal(chosen, expected.numpy())
    assert np.isfinite(own["log_prob"]).all()
    np.testing.assert_allclose(own["log_prob"], extras["log_prob"].numpy(), rtol=1e-4, atol=1e-4)


def test_observations_far_from_all_before_are_clipped_as_torch_does() -> None:
    spec = NetworkSpec(OBSERVATIONS["box"], ACTIONS["box"], (7,), normalize_observations=True)
    module = random_module(spec)
    module.observe(torch.randn(100, 3) * 0.01)
    actor = NumpyActor(spec, module.parameter_table())
    actor.set_weights(weights_of(module))
    observations = np.float32([[5, 0, -5], [0.01, 3, 0]])
    with torch.no_grad():
        expected, _ = module.act(torch.tensor(observations), None)
    np.testing.assert_allclose(actor.act(observations, None)[0], expected.numpy(), rtol=1e-5)


def test_an_actor_acts_for_any_number_of_observations_in_turn() -> None:
    spec = NetworkSpec(OBSERVATIONS["box"], ACTIONS["discrete"])
    module = random_module(spec)
    actor = NumpyActor(spec, module.parameter_table())
    actor.set_weights(weights_of(module))
    for count in (16, 3, 1, 16):
        observations = sample_observations(module, count)
        noise = draw_noise(module.action_layout, np.random.default_rng(count), count)
        actions, extras = actor.act(observations, noise)
        assert actions.shape == extras["log_prob"].shape == (count,)


def test_acting_changes_neither_observations_nor_weights() -> None:
    for activation in ACTIVATIONS:
        spec = NetworkSpec(OBSERVATIONS["box"], ACTIONS["box"], (), activation)
        module = random_module(spec)
        weights, observations = weights_of(module), sample_observations(module, B)
        before = weights.parameters.copy(), np.array(observations)
        actor = NumpyActor(spec, module.parameter_table())
        actor.set_weights(weights)
        actor.act(observations, np.zeros((B, 2), np.float32))
        assert np.array_equal(weights.parameters, before[0])
        assert np.array_equal(observations, before[1])


@pytest.mark.parametrize("actions", ACTIONS)
def test_the_torch_actor_acts_as_its_module_does_after_new_weights(actions: str) -> None:
    spec = NetworkSpec(OBSERVATIONS["nested"], ACTIONS[actions], normalize_observations=True)
    actor = TorchActor(ActorCritic(spec))
    module = random_module(spec)
    module.observe(tensors(sample_observations(module, 50)))
    actor.set_weights(weights_of(module))
    observations = sample_observations(module, B)
    noise = draw_noise(module.action_layout, np.random.default_rng(5), B)
    with torch.no_grad():
        expected, extras = module.act(tensors(observations), torch.tensor(noise))
    chosen, own = actor.act(observations, noise)
    assert_same(chosen, expected.numpy())
    np.testing.assert_allclose(own["log_prob"], extras["log_prob"].numpy(), rtol=1e-5, atol=1e-6)


def test_images_are_acted_on_by_torch_and_all_else_by_numpy() -> None:
    image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    small = ActorCritic(NetworkSpec(OBSERVATIONS["box"], ACTIONS["box"]))
    large = ActorCritic(NetworkSpec(image, ACTIONS["box"]))
    assert isinstance(actor_factory(small)(), NumpyActor)
    assert isinstance(actor_factory(large)(), TorchActor)
