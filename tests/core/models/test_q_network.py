"""The Q-network: its contract, its exploration, its two ways to put values together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rl.core.data.weights import Weights
from rl.core.models.numpy_mlp import NumpyQActor
from rl.core.models.policy import Policy
from rl.core.models.q_network import QNetwork, dueling_values, epsilon_greedy
from rl.core.models.spec import QNetworkSpec
from rl.core.models.torch_actor import TorchActor
from rl.errors import CheckpointError, UsageError
from rl.testing import check_module

BOX = spaces.Box(-1, 1, (3,))
FOUR = spaces.Discrete(4, start=2)


def network(epsilon: float = 0.3, observation: Any = BOX, **settings: Any) -> QNetwork:
    torch.manual_seed(0)
    module = QNetwork(QNetworkSpec(observation, FOUR, **settings))
    module.epsilon.fill_(epsilon)
    return module


ATOMS: dict[str, Any] = {"num_atoms": 11, "v_min": -3.0, "v_max": 7.0}


NOISY: dict[str, Any] = {"noisy_sigma": 0.5}
KINDS: list[dict[str, Any]] = [{}, {"dueling": True}, ATOMS, {"dueling": True, **ATOMS}]


@pytest.mark.parametrize("kind", [*KINDS, *(kind | NOISY for kind in KINDS)], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalize_observations": True, "activation": "elu"},
        {"hidden_sizes": (), "observation": spaces.Discrete(5)},
        {"observation": spaces.Box(0, 255, (40, 40, 3), np.uint8)},
        {"observation": spaces.Dict({"a": BOX, "b": spaces.Discrete(3)})},
    ],
    ids=["plain", "normalised", "no hidden layer", "image", "dict"],
)
def test_it_does_what_every_module_must(kind: dict[str, Any], settings: dict[str, Any]) -> None:
    check_module(lambda: network(**settings, **kind), batch=40)


def test_golden_dueling_values() -> None:
    values = dueling_values(torch.tensor([[2.0]]), torch.tensor([[1.0, 2.0, 6.0]]))
    assert values.tolist() == [[0, 1, 5]]


def test_a_dueling_network_has_value_and_advantages_apart() -> None:
    module = network(dueling=True, hidden_sizes=(16, 8))
    observations = torch.randn(5, 3)
    before = module.q_values(observations)
    assert module.value is not None
    head = list(module.value.parameters())[-1]
    with torch.no_grad():
        head += 2  # the bias of the value alone
    torch.testing.assert_close(module.q_values(observations), before + 2)
    assert [len(module.torso), len(module.advantage_stream)] == [2, 2]
    assert len(network(hidden_sizes=(16, 8)).torso) == 4


def test_values_are_the_means_of_their_distributions() -> None:
    module = network(**ATOMS)
    probabilities = torch.tensor([[[0.0] * 10 + [1.0], [0.5] + [0.0] * 9 + [0.5]]])
    assert module.expected(probabilities).tolist() == [[7, 2]]
    observations = torch.randn(5, 3)
    chances = module.logits(observations).softmax(-1)
    assert chances.shape == (5, 4, 11)
    torch.testing.assert_close(module.q_values(observations), chances @ torch.arange(-3.0, 8))


def test_value_and_advantages_of_a_distribution_meet_atom_by_atom() -> None:
    """Rainbow's aggregation: softmax over i of v_i + a_i(x, a) - mean over a of a_i."""
    module = network(dueling=True, hidden_sizes=(16, 8), **ATOMS)
    observations = torch.randn(5, 3)
    logits = module.logits(observations)
    assert module.value is not None
    hidden = module.torso(module.encoder(observations))
    value = module.value(hidden)
    torch.testing.assert_close(logits.mean(1), value)
    rows = module.advantage_head(module.advantage_stream(hidden)).reshape(5, 4, 11)
    for i in (0, 10):
        golden = dueling_values(value[:, i : i + 1], rows[:, :, i])
        torch.testing.assert_close(logits[:, :, i], golden)


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.5, 1.0])
def test_exploration_is_drawn_for_each_row(epsilon: float) -> None:
    values = torch.tensor([[0.0, 3.0, 1.0, 2.0]]).expand(40_000, 4)
    noise = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    actions = epsilon_greedy(values, torch.tensor(epsilon), noise)
    shares = torch.bincount(actions, minlength=4) / 40_000
    expected = [epsilon / 4, 1 - epsilon * 3 / 4, epsilon / 4, epsilon / 4]
    assert shares.tolist() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 1.0])
def test_light_workers_explore_exactly_as_the_module_does(epsilon: float) -> None:
    module = network(epsilon)
    noise = np.random.default_rng(0).random((500, 1), np.float32)
    noise[:3, 0] = [0, np.nextafter(np.float32(epsilon), 0), np.nextafter(np.float32(1), 0)]
    noise = np.maximum(noise, 0)
    observations = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
    vector = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()
    weights = Weights(1, vector, {"epsilon": module.epsilon.numpy()})
    light, heavy = NumpyQActor(module.spec, module.parameter_table()), TorchActor(network(0.9))
    chosen = []
    for actor in (light, heavy):
        actor.set_weights(weights)
        chosen.append(actor.act(observations, noise)[0])
    assert np.array_equal(*chosen)
    assert len(set(chosen[0])) > 2


@pytest.mark.parametrize("kind", [{}, ATOMS, NOISY], ids=["values", "distributions", "noisy"])
def test_a_policy_tells_its_values_and_keeps_them(tmp_path: Path, kind: dict[str, Any]) -> None:
    module = network(dueling=True, hidden_sizes=(8,), **kind)
    Policy(module).save(tmp_path / "policy")
    policy = Policy.load(tmp_path / "policy")
    one, batch = np.zeros(3, np.float32), np.ones((5, 3), np.float32)
    assert policy.q_values(one).shape == (4,)
    expected = module.q_values(torch.tensor(batch)).detach().numpy()
    assert np.allclose(policy.q_values(batch), expected)
    assert policy.act(batch).tolist() == (expected.argmax(1) + 2).tolist()
    drawn = policy.act(np.ones((2000, 3), np.float32), deterministic=False)
    share = np.mean(drawn == policy.act(batch)[0])
    if kind == NOISY:
        assert share < 1 - 0.3 * 3 / 4 - 0.1, "noise comes on top of chance"
    else:
        assert share == pytest.approx(1 - 0.3 * 3 / 4, abs=0.04)
    with pytest.raises(UsageError, match="no value function"):
        policy.value(one)


def test_a_policy_without_action_values_says_so() -> None:
    from rl.core.models.modules import ActorCritic
    from rl.core.models.spec import NetworkSpec

    with pytest.raises(UsageError, match="no action values"):
        Policy(ActorCritic(NetworkSpec(BOX, FOUR))).q_values(np.zeros(3, np.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_sizes": [0]},
        {"activation": "sin"},
        {"dueling": ...},
        {"action_space": 3},
        {"num_atoms": 0},
        {"num_atoms": 1 << 40},
        {"v_min": "low"},
        {"noisy_sigma": ...},
    ],
)
def test_a_damaged_description_is_refused(change: dict[str, Any]) -> None:
    described = network().describe()
    assert QNetworkSpec.from_json(described) == network().spec
    damaged = {key: value for key, value in {**described, **change}.items() if value is not ...}
    with pytest.raises(CheckpointError, match="not the description"):
        QNetworkSpec.from_json(damaged)
