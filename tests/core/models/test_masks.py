"""What networks and policies do with an action mask."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rl.core.models.distributions import Categorical, make_distribution, masked_logits
from rl.core.models.modules import ActorCritic, Module
from rl.core.models.policy import Policy
from rl.core.models.policy_network import CategoricalPolicy
from rl.core.models.q_network import QNetwork, allowed_values, epsilon_greedy
from rl.core.models.spec import NetworkSpec, PolicySpec, QNetworkSpec
from rl.errors import UsageError
from rl.testing import check_module

BOX = spaces.Box(-1, 1, (3,))
FOUR = spaces.Discrete(4, start=2)
IMAGE = spaces.Box(0, 255, (40, 40, 3), np.uint8)
ATOMS: dict[str, Any] = {"num_atoms": 11, "v_min": -3.0, "v_max": 7.0, "dueling": True}


def observed(choices: int, state: Any = BOX) -> spaces.Dict:
    return spaces.Dict({"state": state, "action_mask": spaces.MultiBinary(choices)})


def q_network(state: Any = BOX, **settings: Any) -> QNetwork:
    torch.manual_seed(0)
    module = QNetwork(QNetworkSpec(observed(4, state), FOUR, **settings))
    module.epsilon.fill_(0.4)
    return module


def actor_critic(state: Any = BOX, action: Any = FOUR) -> ActorCritic:
    torch.manual_seed(0)
    choices = 4 if isinstance(action, spaces.Discrete) else int(action.nvec.sum())
    return ActorCritic(NetworkSpec(observed(choices, state), action))


def categorical(state: Any = BOX, warming_up: bool = False) -> CategoricalPolicy:
    torch.manual_seed(0)
    module = CategoricalPolicy(PolicySpec(observed(4, state), FOUR, (16,)))
    module.warming_up.fill_(float(warming_up))
    return module


@pytest.mark.parametrize(
    "make",
    [
        categorical,
        lambda: categorical(warming_up=True),
        q_network,
        lambda: q_network(**ATOMS),
        lambda: q_network(IMAGE),
        lambda: q_network(normalize_observations=True),
        actor_critic,
        lambda: actor_critic(action=spaces.MultiDiscrete([2, 3, 4])),
        lambda: actor_critic(IMAGE),
    ],
    ids=[
        "sac",
        "sac at first",
        "q",
        "atoms",
        "q image",
        "q normalised",
        "policy",
        "many categories",
        "policy image",
    ],
)
def test_every_network_keeps_to_masks_in_torch_and_in_numpy(make: Any) -> None:
    """`check_module` draws masks at random, and some forbid everything."""
    check_module(make, batch=60)


@pytest.mark.parametrize("make", [q_network, actor_critic])
def test_a_mask_is_no_feature(make: Any) -> None:
    module: Module = make()
    assert module.encoder.num_outputs == 3  # type: ignore[union-attr]


def test_what_is_forbidden_adds_nothing_to_a_distribution() -> None:
    logits = torch.tensor([[1.0, 9.0, 2.0, -1.0], [0.0, 0.0, 0.0, 5.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True, False], [False, False, False, True]])
    masked = Categorical(masked_logits(logits, mask))
    alone = Categorical(torch.tensor([1.0, 2.0]))
    entropy = masked.entropy()
    torch.testing.assert_close(entropy[0], alone.entropy())
    assert entropy[1] == 0, "one choice is none"
    actions = torch.tensor([2, 3])
    assert masked.log_prob(actions).tolist() == [alone.log_prob(torch.tensor(1)).item(), 0]
    (entropy.sum() + masked.log_prob(actions).sum()).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad[~mask] == 0).all()
    assert logits.grad[0, 0] != 0
    noise = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    drawn = Categorical(masked_logits(logits[:1].expand(20_000, 4), mask[:1])).sample(noise)
    assert set(drawn.tolist()) == {0, 2}


def test_a_mask_over_several_categories_is_cut_into_theirs() -> None:
    from rl.core.data.spaces import ActionLayout

    layout = ActionLayout(spaces.MultiDiscrete([2, 3]))
    mask = torch.tensor([[True, False, False, True, True]])
    policy = make_distribution(layout, torch.zeros(1, 5), None, mask)
    assert policy.entropy().item() == pytest.approx(np.log(2))
    assert policy.log_prob(torch.tensor([[0, 1]])).item() == pytest.approx(-np.log(2))


def test_the_best_is_sought_among_what_is_allowed() -> None:
    values = torch.tensor([[1.0, 9.0, 2.0]])
    assert allowed_values(values, None) is values
    some = allowed_values(values, torch.tensor([[True, False, True]]))
    assert some.argmax(-1).item() == 2
    nothing = allowed_values(values, torch.zeros(1, 3, dtype=torch.bool))
    assert torch.equal(nothing, values), "a row that forbids all forbids nothing"


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_exploration_is_spread_over_what_is_allowed(epsilon: float) -> None:
    values = torch.tensor([[5.0, 3.0, 1.0, 2.0]]).expand(40_000, 4)
    mask = torch.tensor([[False, True, True, False]]).expand(40_000, 4)
    noise = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    actions = epsilon_greedy(values, torch.tensor(epsilon), noise, mask)
    shares = (torch.bincount(actions, minlength=4) / 40_000).tolist()
    assert shares == pytest.approx([0, 1 - epsilon / 2, epsilon / 2, 0], abs=0.01)
    assert shares[0] == shares[3] == 0


@pytest.mark.parametrize("make", [q_network, actor_critic])
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_policy_takes_the_mask_with_the_observation_or_beside_it(
    make: Any, deterministic: bool, tmp_path: Path
) -> None:
    Policy(make()).save(tmp_path / "policy")
    policy = Policy.load(tmp_path / "policy")
    states = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    masks = np.random.default_rng(1).integers(0, 2, (300, 4))
    masks[masks.sum(1) == 0, 2] = 1
    inside = policy.act({"state": states, "action_mask": masks}, deterministic)
    assert masks[np.arange(300), inside - 2].all()
    beside = policy.act({"state": states}, deterministic, action_mask=masks)
    assert masks[np.arange(300), beside - 2].all()
    if deterministic:
        assert inside.tolist() == beside.tolist()
        one = policy.act({"state": states[0]}, action_mask=masks[0])
        assert one == inside[0]


def test_masks_in_the_wrong_place_are_refused() -> None:
    policy, state = Policy(q_network()), np.zeros(3, np.float32)
    with pytest.raises(UsageError, match=r"pass action_mask=info\[\"action_mask\"\]"):
        policy.act({"state": state})
    with pytest.raises(UsageError, match="allows no action"):
        policy.act({"state": state, "action_mask": np.zeros(4)})
    with pytest.raises(UsageError, match=r"'action_mask' has shape \(3,\)"):
        policy.act({"state": state}, action_mask=np.ones(3))
    plain = Policy(QNetwork(QNetworkSpec(BOX, spaces.Discrete(4))))
    with pytest.raises(UsageError, match="trained without action masks"):
        plain.act(state, action_mask=np.ones(4))
