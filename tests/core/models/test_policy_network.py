"""The policies of SAC and TD3: their contract, their density, their numpy forms."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rl.core.data.action_range import ActionRange
from rl.core.data.weights import Weights
from rl.core.models.actor import actor_factory, draw_noise
from rl.core.models.descriptions import network_of
from rl.core.models.distributions import SquashedGaussian, squash, squashed_sample
from rl.core.models.policy import Policy
from rl.core.models.policy_network import (
    CategoricalPolicy,
    DeterministicPolicy,
    PolicyNetwork,
    SquashedPolicy,
)
from rl.core.models.spec import PolicySpec
from rl.core.models.torch_actor import TorchActor
from rl.errors import CheckpointError, UsageError
from rl.testing import check_module

BOX = spaces.Box(-5, 5, (3,))
UNEVEN = spaces.Box(np.array([[-2.0, 0.0]]), np.array([[2.0, 0.4]]), dtype=np.float64)
FOUR = spaces.Discrete(4, start=2)
KINDS: list[tuple[type[PolicyNetwork], spaces.Space[Any]]] = [
    (SquashedPolicy, UNEVEN),
    (DeterministicPolicy, UNEVEN),
    (CategoricalPolicy, FOUR),
]
EVERY = pytest.mark.parametrize(("kind", "actions"), KINDS, ids=[k.__name__ for k, _ in KINDS])


def policy_of(
    kind: type[PolicyNetwork], actions: spaces.Space[Any], warm: bool = False, **settings: Any
) -> PolicyNetwork:
    torch.manual_seed(0)
    observation = settings.pop("observation", BOX)
    module = kind(PolicySpec(observation, actions, settings.pop("hidden_sizes", (8,)), **settings))
    module.warming_up.fill_(warm)
    if isinstance(module, DeterministicPolicy):
        module.exploration_noise.fill_(0.3)
    return module


@EVERY
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalize_observations": True, "activation": "tanh"},
        {"hidden_sizes": (), "observation": spaces.Discrete(5)},
        {"observation": spaces.Box(0, 255, (40, 40, 3), np.uint8)},
        {"observation": spaces.Dict({"a": BOX, "b": spaces.Discrete(3)})},
    ],
    ids=["plain", "normalised", "no hidden layer", "image", "dict"],
)
def test_it_does_what_every_module_must(
    kind: type[PolicyNetwork], actions: spaces.Space[Any], warm: bool, settings: dict[str, Any]
) -> None:
    check_module(lambda: policy_of(kind, actions, warm, **settings), batch=40)


def test_golden_density_of_a_squashed_gaussian() -> None:
    mean, log_std = (torch.tensor([[x]], dtype=torch.float64) for x in (0.3, -0.5))
    for before, action, correction in (
        (1.2, 0.833655, -1.187378),
        (8.0, 1.0, -14.613706),
        (20.0, 1.0, -38.613706),
    ):
        found, slope = squash(torch.tensor(before, dtype=torch.float64))
        assert float(found) == pytest.approx(action, abs=1e-6)
        assert float(slope) == pytest.approx(correction, abs=1e-6)
    noise = (1.2 - mean) / log_std.exp()
    action, log_prob = squashed_sample(mean, log_std, noise)
    assert float(action) == pytest.approx(0.833655, abs=1e-6)
    assert float(log_prob) == pytest.approx(-0.332465, abs=1e-6)
    wide = SquashedGaussian(mean, log_std, torch.zeros(1), torch.full((1,), 2.0))
    assert float(wide.log_prob(2 * action)) == pytest.approx(-1.025612, abs=1e-6)


@pytest.mark.parametrize("before", [-20.0, 8.0, 20.0])
def test_the_density_has_a_finite_gradient_where_tanh_is_flat(before: float) -> None:
    mean = torch.tensor([[before]], requires_grad=True)
    log_std = torch.tensor([[-3.0]], requires_grad=True)
    _, log_prob = squashed_sample(mean, log_std, torch.tensor([[0.5]]))
    log_prob.sum().backward()  # type: ignore[no-untyped-call]
    assert mean.grad is not None
    assert log_std.grad is not None
    # log(1 - tanh^2 u) falls by 2 for each unit |u| grows
    assert float(mean.grad) == pytest.approx(2.0 if before > 0 else -2.0, abs=1e-4)
    assert torch.isfinite(log_std.grad).all()


def test_a_squashed_gaussian_is_a_density_of_known_entropy() -> None:
    mean, log_std = torch.tensor([[0.4, -1.0]]), torch.tensor([[-0.7, 0.2]])
    policy = SquashedGaussian(mean, log_std, torch.tensor([1.0, 0.0]), torch.tensor([0.2, 3.0]))
    first = SquashedGaussian(mean[:, :1], log_std[:, :1], torch.ones(1), torch.full((1,), 0.2))
    grid = torch.linspace(0.8, 1.2, 20_001)[1:-1, None]
    assert float(first.log_prob(grid).exp().mean() * 0.4) == pytest.approx(1.0, abs=1e-3)
    noise = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(0))
    drawn = policy.sample(noise)
    assert drawn[:, 0].min() > 0.8
    assert drawn[:, 1].max() < 3.0
    measured = -policy.log_prob(drawn).mean()
    assert float(policy.entropy()) == pytest.approx(float(measured), abs=0.01)
    assert policy.mode()[0].tolist() == pytest.approx(
        [1 + 0.2 * np.tanh(0.4), 3 * np.tanh(-1.0)], abs=1e-6
    )


def test_bounds_are_met_exactly_and_units_go_both_ways() -> None:
    bounds = ActionRange.of(UNEVEN)
    ends = bounds.to_env(np.array([[-1, -1], [0, 0], [1, 1]], np.float32))
    np.testing.assert_allclose(ends, [[-2, 0], [0, 0.2], [2, 0.4]], atol=1e-7)
    module = policy_of(SquashedPolicy, UNEVEN)
    assert isinstance(module, SquashedPolicy)
    units = torch.rand(100, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    there = module.bounds.to_env(units)
    torch.testing.assert_close(module.bounds.from_env(there), units, rtol=0, atol=1e-6)
    fixed = ActionRange.of(spaces.Box(np.float32([1, -1]), np.float32([1, 1])))
    assert fixed.inverse.tolist() == [0, 1]


@EVERY
@pytest.mark.parametrize("warm", [False, True])
def test_light_workers_act_as_the_module_does(
    kind: type[PolicyNetwork], actions: spaces.Space[Any], warm: bool
) -> None:
    module = policy_of(kind, actions, warm)
    observations = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
    noise = draw_noise(module.action_layout, np.random.default_rng(0), 500)
    vector = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()
    buffers = {name: buffer.numpy() for name, buffer in module.named_buffers()}
    other = policy_of(kind, actions, not warm)
    light, heavy = actor_factory(module)(), TorchActor(other)
    assert type(light).__name__.startswith("Numpy")
    chosen = []
    for actor in (light, heavy):
        actor.set_weights(Weights(1, vector, buffers))
        chosen.append(actor.act(observations, noise)[0])
    np.testing.assert_allclose(*chosen, atol=1e-5)
    assert len(np.unique(chosen[0], axis=0)) > 2


@EVERY
def test_warming_up_draws_evenly_over_all_there_is(
    kind: type[PolicyNetwork], actions: spaces.Space[Any]
) -> None:
    module = policy_of(kind, actions, warm=True)
    count = 20_000
    noise = torch.tensor(draw_noise(module.action_layout, np.random.default_rng(0), count))
    with torch.no_grad():
        drawn, _ = module.act(torch.zeros(count, 3), noise)
    if kind is CategoricalPolicy:
        assert torch.bincount(drawn, minlength=4).div(count).tolist() == pytest.approx(
            [0.25] * 4, abs=0.02
        )
        return
    for column, (low, high) in enumerate(((-2.0, 2.0), (0.0, 0.4))):
        share, _ = np.histogram(drawn[:, column], bins=10, range=(low, high))
        assert (share / count).tolist() == pytest.approx([0.1] * 10, abs=0.01)


def test_exploring_adds_noise_in_the_units_of_the_bounds_and_clips() -> None:
    module = policy_of(DeterministicPolicy, UNEVEN)
    assert isinstance(module, DeterministicPolicy)
    with torch.no_grad():
        module.head.weight.zero_()
        module.head.bias.copy_(torch.atanh(torch.tensor([0.5, 0.9])))
        noise = torch.tensor([[1.0, -1.0], [0.0, 10.0]])
        drawn, _ = module.act(torch.zeros(2, 3), noise)
        greedy, _ = module.act(torch.zeros(2, 3), None)
    expected = [[2 * 0.8, 0.2 + 0.2 * 0.6], [2 * 0.5, 0.4]]
    np.testing.assert_allclose(drawn.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(greedy.numpy(), [[1.0, 0.38]] * 2, atol=1e-6)


@EVERY
def test_a_policy_file_gives_the_same_policy(
    kind: type[PolicyNetwork], actions: spaces.Space[Any], tmp_path: Path
) -> None:
    module = policy_of(kind, actions, warm=True)
    Policy(module).save(tmp_path / "policy")
    policy = Policy.load(tmp_path / "policy")
    observations = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    with torch.no_grad():
        expected, _ = module.act(torch.tensor(observations), None)
    assert np.allclose(policy.act_batch(observations), expected.numpy(), atol=1e-5)
    assert float(policy._module.get_buffer("warming_up")) == 1
    action = policy.act(observations[0], deterministic=False)
    assert policy.action_space.contains(action)
    if kind is DeterministicPolicy:
        with pytest.raises(UsageError, match="no distribution"):
            policy.distribution(observations)
    else:
        found = policy.distribution(observations)
        rows = torch.tensor(policy.act_batch(observations))
        assert torch.allclose(found.mode().to(rows.dtype), rows, atol=1e-5)
        assert torch.isfinite(found.log_prob(rows)).all()
    with pytest.raises(UsageError, match="no action values"):
        policy.q_values(observations)


@EVERY
@pytest.mark.parametrize(
    "change",
    [{"hidden_sizes": [0]}, {"activation": "sin"}, {"action_space": 3}, {"space": "other"}],
)
def test_a_damaged_description_is_refused(
    kind: type[PolicyNetwork], actions: spaces.Space[Any], change: dict[str, Any]
) -> None:
    described = policy_of(kind, actions).describe()
    assert PolicySpec.from_json(described) == policy_of(kind, actions).spec
    if "space" in change:
        other = BOX if kind is CategoricalPolicy else spaces.MultiDiscrete([2, 3])
        change = {"action_space": PolicySpec(BOX, other).to_json()["action_space"]}
    with pytest.raises(CheckpointError, match="not the description"):
        network_of(kind.kind, {**described, **change})
