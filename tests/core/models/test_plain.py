"""Plain networks as arrays, held to the torch modules they stand for."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rl.core.models.actor import actor_factory
from rl.core.models.initial import orthogonal, uniform
from rl.core.models.modules import ActorCritic
from rl.core.models.numpy_encoder import NumpyEncoder
from rl.core.models.plain import KINDS, PlainNetwork, plain_obstacles
from rl.core.models.policy_network import CategoricalPolicy, DeterministicPolicy, SquashedPolicy
from rl.core.models.q_network import QNetwork
from rl.core.models.spec import NetworkSpec, PolicySpec, QNetworkSpec

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
NESTED = spaces.Dict({"a": spaces.Discrete(4), "b": VECTOR})
BOX = spaces.Box(-2.0, 3.0, (2,), np.float32)
CHOICE = spaces.Discrete(4)
EVERYTHING = spaces.Dict({"a": BOX, "b": CHOICE, "c": spaces.MultiBinary(2)})

CASES: dict[str, tuple[str, type[Any], PolicySpec]] = {
    "categories": ("actor_critic", ActorCritic, NetworkSpec(VECTOR, CHOICE)),
    "normals": ("actor_critic", ActorCritic, NetworkSpec(NESTED, BOX, (8,), "relu", True)),
    "mixed": ("actor_critic", ActorCritic, NetworkSpec(VECTOR, EVERYTHING, log_std_init=-1.0)),
    "shared": ("actor_critic", ActorCritic, NetworkSpec(VECTOR, BOX, shared_torso=True)),
    "no hidden layer": ("actor_critic", ActorCritic, NetworkSpec(VECTOR, BOX, ())),
    "torch's own": ("actor_critic", ActorCritic, NetworkSpec(VECTOR, BOX, orthogonal_init=False)),
    "values": ("q_network", QNetwork, QNetworkSpec(NESTED, CHOICE, (8, 5), "relu", True)),
    "dueling": ("q_network", QNetwork, QNetworkSpec(VECTOR, CHOICE, (8, 5), dueling=True)),
    "atoms": (
        "q_network",
        QNetwork,
        QNetworkSpec(VECTOR, CHOICE, dueling=True, num_atoms=5, v_min=-1.0, v_max=2.0),
    ),
    "squashed": ("squashed_policy", SquashedPolicy, PolicySpec(VECTOR, BOX, (8,))),
    "deterministic": (
        "deterministic_policy",
        DeterministicPolicy,
        PolicySpec(NESTED, BOX, (8, 7), normalize_observations=True),
    ),
    "categorical": ("categorical_policy", CategoricalPolicy, PolicySpec(VECTOR, CHOICE, ())),
}
EVERY = pytest.mark.parametrize(("kind", "module", "spec"), CASES.values(), ids=list(CASES))


def network_of(kind: str, spec: PolicySpec, seed: int = 0) -> PlainNetwork:
    return PlainNetwork(kind, spec, np.random.default_rng(seed))


def test_every_kind_is_looked_at() -> None:
    assert {kind for kind, _, _ in CASES.values()} == set(KINDS)


@EVERY
def test_names_shapes_and_their_order_are_those_of_the_module(
    kind: str, module: type[Any], spec: PolicySpec
) -> None:
    plain, made = network_of(kind, spec), module(spec)
    assert list(plain.parameter_table().shapes.items()) == list(
        made.parameter_table().shapes.items()
    )
    own, theirs = plain.state_arrays(), made.state_arrays()
    assert own.keys() == theirs.keys()
    for name, array in own.items():
        assert (array.shape, array.dtype) == (theirs[name].shape, theirs[name].dtype), name
    ours, others = plain.acting_weights(3), made.acting_weights(3)
    assert ours.buffers.keys() == others.buffers.keys()
    for name, buffer in ours.buffers.items():
        np.testing.assert_allclose(buffer, others.buffers[name], rtol=1e-6, err_msg=name)
        assert buffer.dtype == others.buffers[name].dtype
    assert ours.parameters.shape == others.parameters.shape
    assert plain.describe() == made.describe()


@EVERY
def test_weights_begin_by_the_law_of_the_module(
    kind: str, module: type[Any], spec: PolicySpec
) -> None:
    """As far as spread and norm of each parameter tell; drawn often enough that chance is out."""
    drawn = [network_of(kind, spec, seed).parameters for seed in range(200)]
    torch.manual_seed(0)
    theirs = [dict(module(spec).named_parameters()) for _ in range(200)]
    for name in drawn[0]:
        ours = np.stack([each[name] for each in drawn])
        expected = np.stack([each[name].detach().numpy() for each in theirs])
        assert abs(ours).max() == pytest.approx(abs(expected).max(), rel=0.25, abs=1e-6), name
        spread = float(expected.std())
        assert ours.std() == pytest.approx(spread, rel=0.25, abs=1e-6), name
        assert ours.mean() == pytest.approx(expected.mean(), abs=0.4 * spread + 1e-6), name


@EVERY
def test_the_module_it_builds_lives_in_its_memory(
    kind: str, module: type[Any], spec: PolicySpec
) -> None:
    plain = network_of(kind, spec)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    made = plain.build()
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers are left alone"
    assert type(made) is module
    for name, array in plain.state_arrays().items():
        assert np.array_equal(made.state_arrays()[name], array), name
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1)
        for buffer in made.buffers():
            buffer.add_(1)
    for name, array in plain.state_arrays().items():
        assert np.array_equal(made.state_arrays()[name], array), name


@EVERY
def test_it_acts_and_observes_as_the_module_does(
    kind: str, module: type[Any], spec: PolicySpec
) -> None:
    plain = network_of(kind, spec)
    made = plain.frozen().build()
    layout = plain.observation_layout
    layout.space.seed(1)
    rows: Any = layout.stack([layout.space.sample() for _ in range(20)])
    tensors = (
        {path: torch.tensor(leaf) for path, leaf in rows.items()}
        if isinstance(rows, dict)
        else torch.tensor(rows)
    )
    if spec.normalize_observations:
        for _ in range(2):
            plain.observe(rows)
            made.observe(tensors)
        for name, array in plain.buffers.items():
            np.testing.assert_allclose(array, made.state_arrays()[name], rtol=1e-12)
        raw = NumpyEncoder(spec)(rows).astype(np.float64)
        np.testing.assert_allclose(plain.buffers["encoder.normalizer.mean"], raw.mean(0))
        np.testing.assert_allclose(plain.buffers["encoder.normalizer.var"], raw.var(0))
    actor = actor_factory(plain)()
    actor.set_weights(plain.acting_weights(1))
    with torch.no_grad():
        expected = made.act(tensors, None)[0].numpy()
    np.testing.assert_allclose(actor.act(rows, None)[0], expected, rtol=1e-5, atol=1e-5)


def test_weights_and_states_go_from_one_to_the_other() -> None:
    spec = NetworkSpec(VECTOR, BOX, (8,), "tanh", True)
    one, other = network_of("actor_critic", spec), PlainNetwork("actor_critic", spec)
    one.observe(np.random.default_rng(0).normal(size=(9, 3)))
    assert not other.vector.any()
    other.load_state_arrays(one.state_arrays())
    assert np.array_equal(one.vector, other.vector)
    assert other.buffers["encoder.normalizer.count"] == 9
    kept = other.frozen()
    one.vector += 1
    other.set_weights(one.acting_weights(1))
    assert np.array_equal(one.vector, other.vector)
    assert not np.array_equal(kept.vector, other.vector)
    with pytest.raises(ValueError, match=r"policy_head.bias"):
        other.load_state_arrays({k: v for k, v in one.state_arrays().items() if "head.b" not in k})
    with pytest.raises(ValueError, match=r"log_std is \(1,\) instead of \(2,\)"):
        other.load_state_arrays(one.state_arrays() | {"log_std": np.zeros(1, np.float32)})


def test_what_has_no_such_form_is_named() -> None:
    image = spaces.Box(0, 255, (40, 40), np.uint8)
    found = [
        *plain_obstacles(NetworkSpec(image, CHOICE)),
        *plain_obstacles(NetworkSpec(VECTOR, CHOICE, memory="gru")),
        *plain_obstacles(QNetworkSpec(VECTOR, CHOICE, noisy_sigma=0.5)),
        *plain_obstacles(PolicySpec(VECTOR, BOX, encoder="package.module:Encoder")),
    ]
    assert found == ["images", "memory", "noisy layers", "an encoder of your own"]
    assert not list(plain_obstacles(QNetworkSpec(NESTED, CHOICE, dueling=True)))


@pytest.mark.parametrize("shape", [(64, 4), (4, 64), (8, 8), (1, 5)])
def test_orthogonal_weights_are_orthogonal_and_drawn_evenly(shape: tuple[int, int]) -> None:
    gain = math.sqrt(2)
    weights = orthogonal(np.random.default_rng(0), shape, gain).astype(np.float64)
    tall = weights if shape[0] >= shape[1] else weights.T
    np.testing.assert_allclose(tall.T @ tall, 2 * np.eye(min(shape)), atol=1e-5)
    # Without the signs of R's diagonal, the first number would nearly always be negative.
    firsts = [orthogonal(np.random.default_rng(s), shape, 1.0)[0, 0] > 0 for s in range(200)]
    assert 60 < sum(firsts) < 140


def test_uniform_weights_fill_their_range() -> None:
    drawn = uniform(np.random.default_rng(0), (400, 25), 25)
    assert drawn.dtype == np.float32
    assert -0.2 <= drawn.min() < -0.199
    assert 0.199 < drawn.max() <= 0.2
    assert abs(drawn.mean()) < 0.005
