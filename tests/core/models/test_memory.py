"""Networks with memory: step by step, packed, in numpy, and as a policy."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rl.core.data.tree import tree_map
from rl.core.models.actor import actor_factory, draw_noise
from rl.core.models.memory import Memory, Packed
from rl.core.models.modules import ActorCritic
from rl.core.models.numpy_memory import NumpyRecurrentActor
from rl.core.models.policy import Policy
from rl.core.models.q_network import QNetwork
from rl.core.models.spec import NetworkSpec, QNetworkSpec
from rl.errors import CheckpointError, UsageError
from rl.testing import check_module

KINDS = ("gru", "lstm")
BOX = spaces.Box(-1, 1, (3,), np.float32)
MASKED = spaces.Dict(
    {"seen": BOX, "which": spaces.Discrete(3), "action_mask": spaces.MultiBinary(4)}
)
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)


def module(kind: Any, observation: Any = BOX, action: Any = None, **settings: Any) -> ActorCritic:
    torch.manual_seed(1)
    chosen = spaces.Discrete(4) if action is None else action
    spec = NetworkSpec(observation, chosen, (8,), memory=kind, memory_size=5, **settings)
    made = ActorCritic(spec)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return made.eval()


def state_of(made: ActorCritic, rows: int) -> torch.Tensor:
    return torch.randn(rows, made.memory_size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orthogonal", [True, False])
def test_two_episodes_in_one_batch_are_as_the_second_alone(kind: Any, orthogonal: bool) -> None:
    made = module(kind, orthogonal_init=orthogonal)
    features = torch.randn(5, 3)
    nothing = torch.zeros(1, made.memory_size)
    alone, after = made.remember(features, Packed(torch.ones(5, dtype=torch.int64), nothing))
    other = torch.randn(7, 3)
    # Longest first: 7 steps, of which the first 5 have one of ours beside them.
    rows = torch.cat([torch.stack((other[t], features[t])) for t in range(5)] + [other[5:]])
    sizes = torch.tensor([2] * 5 + [1] * 2)
    joined, states = made.remember(rows, Packed(sizes, torch.zeros(2, made.memory_size)))
    torch.testing.assert_close(joined[1:10:2], alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(states[1:], after, rtol=0, atol=1e-6)
    told, _ = made.remember(features, Packed(torch.ones(5, dtype=torch.int64), nothing + 1))
    assert not torch.allclose(told, alone, atol=1e-3), "what was remembered counts"


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_packed_steps_are_as_one_step_at_a_time(kind: Any) -> None:
    made, lengths = module(kind), [6, 3, 1]
    start = state_of(made, 3)
    sequences = [torch.randn(length, 3) for length in lengths]
    sizes = torch.tensor([sum(length > t for length in lengths) for t in range(6)])
    rows = torch.cat([s[t : t + 1] for t in range(6) for s in sequences if t < len(s)])
    policy, values = made(rows, Packed(sizes, start))
    _, after = made.remember(rows, Packed(sizes, start))
    memory, at = [start[i : i + 1] for i in range(3)], 0
    for t, size in enumerate(sizes.tolist()):
        for i in range(size):
            one = sequences[i][t : t + 1]
            assert float(made.value(one, memory[i])) == pytest.approx(float(values[at]), abs=1e-6)
            logits = made.distribution(one, memory[i]).mode()
            assert int(logits) == int(policy.mode()[at])
            _, memory[i] = made.remember(one, Packed.single(memory[i]))
            at += 1
    torch.testing.assert_close(torch.cat(memory), after, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_go_back_to_the_first_step_of_a_sequence_and_no_further(kind: Any) -> None:
    made = module(kind)
    features = torch.randn(6, 3, requires_grad=True)
    sizes = torch.tensor([2, 2, 2])
    outputs, _ = made.remember(features, Packed(sizes, torch.zeros(2, made.memory_size)))
    outputs[4].sum().backward()
    assert features.grad is not None
    assert features.grad[[0, 2, 4]].abs().sum(1).min() > 0
    assert features.grad[[1, 3, 5]].abs().max() == 0, "of the other sequence"


def test_an_lstm_begins_by_not_forgetting() -> None:
    cell = Memory("lstm", 3, 4, orthogonal=True).cell
    assert cell.bias_ih_l0.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    gates = cell.weight_hh_l0.split(4)
    for gate in gates:
        torch.testing.assert_close(gate @ gate.T, torch.eye(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (BOX, spaces.Discrete(4)),
        (MASKED, spaces.Discrete(4)),
        (BOX, spaces.Box(-1, 1, (2,))),
        (BOX, spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)])),
        (IMAGE, spaces.Discrete(4)),
    ],
)
def test_runners_act_as_the_module_does(
    kind: Any, observation: Any, action: Any, shared: bool
) -> None:
    normalized = observation is BOX
    made = module(kind, observation, action, normalize_observations=normalized, shared_torso=shared)
    actor: Any = actor_factory(made)()
    assert isinstance(actor, NumpyRecurrentActor) == (observation is not IMAGE)
    policy_of = Policy(made)  # gives the weights to its actor
    own: Any = policy_of._actor
    layout = made.observation_layout
    layout.space.seed(0)
    samples = [layout.space.sample() for _ in range(6)]
    for sample in samples if observation is MASKED else ():
        sample["action_mask"][0] = 1
    rows = layout.stack(samples)
    noise = draw_noise(made.action_layout, np.random.default_rng(0), 6)
    memory = state_of(made, 6).numpy()
    assert memory.shape[1] == (1 if shared else 2) * (10 if kind == "lstm" else 5)
    with torch.no_grad():
        inputs = tree_map(torch.tensor, rows)
        for given in (noise, None):
            tensor = None if given is None else torch.tensor(given)
            actions, extras, after = made.act_with_memory(inputs, tensor, torch.tensor(memory))
            found, found_extras, found_after = own.act_with_memory(rows, given, memory)
            np.testing.assert_allclose(found, actions.numpy(), atol=1e-5)
            np.testing.assert_allclose(found_after, after.numpy(), atol=1e-5)
            assert set(found_extras) == set(extras)
            for name, values in extras.items():
                np.testing.assert_allclose(found_extras[name], values.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_does_what_every_module_must(kind: Any) -> None:
    check_module(lambda: ActorCritic(NetworkSpec(BOX, spaces.Discrete(3), memory=kind)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dueling": True, "num_atoms": 5, "v_max": 2.0, "noisy_sigma": 0.5},
        {"normalize_observations": True},
        {"observation_space": MASKED},
        {"observation_space": IMAGE},
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_q_network_does_what_every_module_must(kind: Any, settings: dict[str, Any]) -> None:
    spec = {"observation_space": BOX, "action_space": spaces.Discrete(4), "memory": kind}
    check_module(lambda: QNetwork(QNetworkSpec(**spec | settings)))


@pytest.mark.parametrize("kind", KINDS)
def test_action_values_are_those_of_what_was_seen(kind: Any) -> None:
    torch.manual_seed(3)
    policy = Policy(QNetwork(QNetworkSpec(BOX, spaces.Discrete(3), memory=kind)))
    rows = np.random.default_rng(0).normal(size=(4, *BOX.shape)).astype(np.float32)
    at_first = policy.q_values(rows[3])
    for row in rows[:3]:
        policy.act(row)
    later = policy.q_values(rows[3])
    assert np.abs(later - at_first).max() > 1e-4
    assert policy.q_values(rows[3]).tolist() == later.tolist()  # looking changes nothing
    assert int(policy.act(rows[3])) == int(later.argmax())
    policy.reset()
    assert policy.q_values(rows[3]).tolist() == at_first.tolist()


class Deaf(ActorCritic):
    """Gives back the memory it was given."""

    def act_with_memory(self, observations: Any, noise: Any, memory: Any) -> Any:
        return (*super().act_with_memory(observations, noise, memory)[:2], memory[:, :1])


def test_a_module_that_breaks_the_contract_of_memory_is_told_so() -> None:
    spec = NetworkSpec(BOX, spaces.Discrete(3), memory="gru")
    with pytest.raises(AssertionError, match="act_with_memory: what is remembered has the shape"):
        check_module(lambda: Deaf(spec))


def observed(count: int) -> Any:
    return np.random.default_rng(5).normal(size=(count, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_remembers_from_call_to_call_until_it_is_reset(kind: Any, tmp_path: Path) -> None:
    made = module(kind, action=spaces.Box(-9, 9, (2,)))
    policy = Policy(made)
    policy.save(tmp_path / "policy")
    loaded = Policy.load(tmp_path / "policy")
    rows = observed(6)
    memory = torch.zeros(1, made.memory_size)
    first = []
    for row in rows:
        with torch.no_grad():
            value = float(made.value(torch.tensor(row[None]), memory))
            action, _, memory = made.act_with_memory(torch.tensor(row[None]), None, memory)
        assert policy.value(row) == pytest.approx(value, abs=1e-5)
        spread: Any = policy.distribution(row)
        np.testing.assert_allclose(spread.mode().numpy(), action.numpy(), atol=1e-5)
        acted = policy.act(row)
        np.testing.assert_allclose(acted, action[0].numpy(), atol=1e-5)
        assert np.array_equal(loaded.act(row), acted)
        first.append(acted)
    assert not np.allclose(policy.act(rows[0]), first[0], atol=1e-4), "it has seen more by now"
    policy.reset()
    assert all(
        np.array_equal(policy.act(row), acted) for row, acted in zip(rows, first, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_of_a_batch_has_a_memory_of_its_own(kind: Any) -> None:
    policy = Policy(module(kind, action=spaces.Box(-9, 9, (2,))))
    rows = observed(12).reshape(4, 3, 3)
    whole = [policy.act(row) for row in rows]
    policy.reset()
    for t, row in enumerate(rows):
        if t == 2:
            policy.reset([False, True, False])
        actions = policy.act(row)
        np.testing.assert_allclose(actions[[0, 2]], whole[t][[0, 2]], atol=1e-6)
        assert np.allclose(actions[1], whole[t][1], atol=1e-5) == (t < 2)
    alone = Policy(module(kind, action=spaces.Box(-9, 9, (2,))))
    np.testing.assert_allclose(alone.act(rows[2][1]), _second(policy, rows)[0], atol=1e-5)


def _second(policy: Policy, rows: Any) -> Any:
    """What is done in row 1 of step 2 when an episode begins there."""
    policy.reset()
    policy.act(rows[0])
    policy.reset(np.array([False, True, False]))
    return policy.act(rows[2])[1:]


def test_a_batch_of_another_size_needs_a_reset() -> None:
    policy = Policy(module("gru"))
    policy.act(observed(3))
    with pytest.raises(UsageError, match=r"of 3 episodes, and was now given 1 .*policy\.reset\(\)"):
        policy.act(observed(1)[0])
    with pytest.raises(UsageError, match=r"policy\.reset: \(2,\) says not for each of 3 rows"):
        policy.reset([True, False])
    policy.reset()
    policy.act(observed(1)[0])


def test_a_policy_without_memory_has_nothing_to_reset() -> None:
    policy = Policy(module(None))
    rows = observed(3)
    before = policy.act(rows)
    policy.reset()
    policy.reset([True])
    assert np.array_equal(policy.act(rows), before)
    assert policy.act(rows[:1]).shape == (1,)


def test_the_description_of_a_network_tells_its_memory() -> None:
    for kind, size in itertools.product((*KINDS, None), (3, 64)):
        spec = NetworkSpec(BOX, spaces.Discrete(2), memory=kind, memory_size=size)
        assert NetworkSpec.from_json(spec.to_json()) == spec
        assert spec.state_size == {"gru": 2 * size, "lstm": 4 * size, None: 0}[kind]
        shared = replace(spec, shared_torso=True)
        assert shared.state_size == spec.state_size // 2
    older = NetworkSpec(BOX, spaces.Discrete(2)).to_json()
    del older["memory"], older["memory_size"]
    assert NetworkSpec.from_json(older).memory is None
    for wrong in ({"memory": "elephant"}, {"memory_size": 0}, {"memory": 1}, {"memory_size": "x"}):
        with pytest.raises(CheckpointError, match="not the description of a network"):
            NetworkSpec.from_json(spec.to_json() | wrong)
