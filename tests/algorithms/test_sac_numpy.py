"""The analytic engines of SAC is held to the torch losses, which are the definition."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rl.algorithms.sac import SAC, SACConfig, SACLearner
from rl.core.data.replay import Transitions
from rl.core.data.spaces import Spaces
from rl.core.data.tree import Array, tree_map
from rl.core.learning.experience import ReplayBatch
from rl.errors import UsageError
from tests.by_hand import BY_HAND, FASTEST

VECTOR = spaces.Box(-1, 1, (4,))
NESTED = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.MultiDiscrete([2, 3]))
ACTIONS = spaces.Box(np.array([-2.0, 0.0, -1.0], np.float32), np.array([2.0, 0.4, 1.0], np.float32))
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "prioritized": {"prioritized": True},
    "fixed temperature": {"ent_coef": 0.3},
    "tanh": {"activation": "tanh"},
    "silu": {"activation": "silu"},
    "three hidden layers": {"hidden_sizes": (9, 8, 7)},
    "no hidden layer": {"hidden_sizes": ()},
    "normalised": {"normalize_observations": True},
    "nested": {"observation": NESTED, "normalize_observations": True},
}
M = 16


def learner_of(
    observation: spaces.Space[Any] = VECTOR,
    action: spaces.Space[Any] = ACTIONS,
    engine: str = "numpy",
    **settings: Any,
) -> SACLearner:
    settings = {"hidden_sizes": (16, 8), "batch_size": M, "buffer_size": 64, **settings}
    config = SACConfig(seed=3, **settings).with_learners(engine=engine)  # type: ignore[arg-type]
    learner = SACLearner(config, Spaces(observation, action), 1)
    with torch.no_grad():  # a target of its own, statistics of its own, some deviations clamped
        learner.target_parameters.add_(0.1 * torch.randn_like(learner.target_parameters))
        learner.flat.vector.mul_(3)
        for name, buffer in learner.module.named_buffers():
            if "normalizer" in name:
                buffer.uniform_(0.5, 2)
    return learner


def batch_of(learner: SACLearner) -> tuple[Transitions, Array]:
    generator = np.random.default_rng()  # other inputs every time
    layout, actions = learner.module.observation_layout, learner.module.action_layout
    layout.space.seed(int(generator.integers(1 << 30)))
    rows = [layout.stack([layout.space.sample() for _ in range(M)]) for _ in range(2)]
    found = Transitions(
        rows[0],
        np.stack([actions.space.sample() for _ in range(M)]),
        generator.normal(size=M).astype(np.float32),
        rows[1],
        (0.9 * (generator.random(M) < 0.8)).astype(np.float32),
    )
    return found, generator.random(M).astype(np.float32)


def compare(learner: SACLearner) -> None:
    found, importance = batch_of(learner)
    weights = importance if learner.config.prioritized else None
    batch = ReplayBatch(
        np.arange(M),
        tree_map(torch.tensor, found.observations),
        torch.tensor(found.actions),
        torch.tensor(found.returns),
        tree_map(torch.tensor, found.next_observations),
        torch.tensor(found.discounts),
        None if weights is None else torch.tensor(weights),
    )
    ent_coef, critics = learner.temperature(), learner.others["critics"]
    state = learner.numbers.get_state()
    loss, values, errors = learner.critic_loss(batch, ent_coef, learner.noise_for(batch))
    critics.backward(loss)
    expected = critics.gradient.clone()
    noise = learner.noise_for(batch)
    actor_loss, log_probs = learner.policy_loss(batch.observations, ent_coef, noise)
    learner.flat.backward(actor_loss)
    expected_policy = learner.flat.gradient.clone()

    learner.numbers.set_state(state)
    both = [learner.noise((M, 3)) for _ in range(2)]
    critics.gradient.fill_(torch.nan)  # every entry is written
    terms, ours = learner.analytic.critic_gradient(found, both[0], ent_coef.item(), weights)
    assert_close(critics.gradient, expected)
    np.testing.assert_allclose(ours, errors.numpy(), rtol=1e-4, atol=1e-5)
    assert terms["critic_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert terms["q_value"] == pytest.approx(values.mean().item(), rel=1e-4, abs=1e-6)

    learner.flat.gradient.fill_(torch.nan)
    critics.gradient.fill_(7)  # the policy's loss leaves the critics alone
    found_loss, mean = learner.analytic.policy_gradient(
        found.observations, both[1], ent_coef.item()
    )
    assert_close(learner.flat.gradient, expected_policy)
    assert found_loss == pytest.approx(actor_loss.item(), rel=1e-4, abs=1e-5)
    assert mean == pytest.approx(log_probs.mean().item(), rel=1e-4, abs=1e-5)
    assert bool((critics.gradient == 7).all())


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = max(1.0, float(expected.abs().max()))
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", BY_HAND)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_both_gradients_are_those_of_the_torch_losses(
    settings: dict[str, Any], engine: str
) -> None:
    compare(learner_of(engine=engine, **settings))


@pytest.mark.parametrize("engine", BY_HAND)
def test_a_deviation_at_its_bound_gets_no_gradient(engine: str) -> None:
    learner = learner_of(hidden_sizes=(), engine=engine)
    with torch.no_grad():
        learner.module.head.bias[3:] = torch.tensor([5.0, -30.0, 0.0])
        learner.module.head.weight[3:].zero_()
    compare(learner)
    gradient = learner.module.head.bias.grad
    assert gradient is not None
    assert gradient[3:].ne(0).tolist() == [False, False, True]


def test_what_it_cannot_do_is_refused_when_asked_for_and_left_to_torch_otherwise() -> None:
    discrete = {"action": spaces.Discrete(3)}
    for settings, word in ((discrete, "discrete"), ({"activation": "gelu"}, "gelu")):
        assert learner_of(**settings, engine="auto").engine == "torch"
        with pytest.raises(UsageError, match=word):
            learner_of(**settings)
    assert learner_of(engine="auto").engine == FASTEST


def trained(engine: str) -> Array:
    config = SACConfig(
        env="Pendulum-v1",
        seed=1,
        total_steps=80,
        learning_starts=40,
        batch_size=16,
        hidden_sizes=(16,),
    ).with_learners(engine=engine)  # type: ignore[arg-type]
    with SAC(config) as algorithm:
        algorithm.learn()
        return algorithm.learners.get_weights().parameters


@pytest.mark.parametrize("engine", BY_HAND)
def test_engines_stay_together_and_each_repeats_itself(engine: str) -> None:
    first, again, torchs = trained(engine), trained(engine), trained("torch")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, torchs)
    np.testing.assert_allclose(first, torchs, rtol=0, atol=1e-3)
