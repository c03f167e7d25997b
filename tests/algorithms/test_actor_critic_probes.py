"""SAC and TD3 find the known values of the probe environments, with each of their options."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rl.algorithms.sac import SACLearner
from rl.algorithms.td3 import TD3Learner
from rl.configs.sac import SACConfig
from rl.configs.td3 import TD3Config
from rl.testing.probe_envs import (
    ActionReward,
    EndlessReward,
    MatchObservation,
    ObservationReward,
    ReachTarget,
    TwoStep,
    WrongSuccessor,
)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"n_step": 3, "prioritized": True, "target_update_interval": 4, "tau": 0.3},
}
EVERY = pytest.mark.parametrize("option", OPTIONS)
KINDS = pytest.mark.parametrize("kind", ["sac", "discrete sac", "td3"])


class Continuous(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A probe steered by a number in [0, 2]: of two actions, above 1 means the second."""

    def __init__(self, make_env: Any) -> None:
        super().__init__(make_env())
        self.discrete = isinstance(self.env.action_space, spaces.Discrete)
        self.action_space = spaces.Box(0.0, 2.0, (1,))

    def step(self, action: Any) -> Any:
        return self.env.step(int(action[0] > 1) if self.discrete else action[0])


Learner = SACLearner | TD3Learner


def _train(
    kind: str, env: Any, option: str = "plain", num_environments: int = 3, **more: Any
) -> Learner:
    """Learns from 600 steps with evenly drawn actions and 300 of its own; nothing is forgotten."""
    settings: dict[str, Any] = {
        "env": env if kind == "discrete sac" else partial(Continuous, env),
        "seed": 3,
        "gamma": 0.9,
        "learning_rate": 2e-2,  # two thirds less when learning starts, for it falls with the steps
        "learning_rate_final": 1e-4,
        "hidden_sizes": (16,),
        "total_steps": 900,
        "learning_starts": 600,
        "buffer_size": 1000,
        "batch_size": 32,
        "rollout_length": 8,
        "updates_per_step": 4,
        "tau": 0.1,
        "env_runners": {"num": 1, "envs_per_runner": num_environments},
        **OPTIONS[option],
    }
    # Without a worth of entropy, which values would hold, too.
    config = (
        TD3Config(**settings | {"exploration_noise": 0.5} | more)
        if kind == "td3"
        else SACConfig(**settings | {"ent_coef": 0.0} | more)
    )
    with config.build() as algorithm:
        algorithm.learn()
        learner = algorithm.learners._learner
    assert isinstance(learner, SACLearner | TD3Learner)
    return learner


def _values(learner: Learner, num_states: int) -> Any:
    """Of either critic, each state and the lower and the upper action, [2, states, 2]."""
    states = torch.eye(num_states)
    with torch.no_grad():
        if isinstance(learner.config.env, partial) and learner.config.env.func is Continuous:
            columns = [
                learner.critics(states, torch.full((num_states, 1), at)) for at in (-0.6, 0.6)
            ]
            return torch.cat(columns, -1).numpy()
        return learner.critics(states).numpy()


@EVERY
@KINDS
def test_a_time_limit_does_not_end_the_value(kind: str, option: str) -> None:
    values = _values(_train(kind, EndlessReward, option), 1)
    assert values.ravel().tolist() == pytest.approx([10.0] * 4, rel=0.03)


@EVERY
@KINDS
def test_termination_ends_the_value(kind: str, option: str) -> None:
    env = partial(EndlessReward, 3, "terminated")
    values = _values(_train(kind, env, option), 4)
    for column in values.transpose(0, 2, 1).reshape(4, 4):
        assert column[:3].tolist() == pytest.approx([2.71, 1.9, 1.0], abs=0.05)


@EVERY
@KINDS
def test_the_observation_after_a_reset_never_enters_a_bootstrap(kind: str, option: str) -> None:
    values = _values(_train(kind, WrongSuccessor, option), 2)
    assert values[:, 0].ravel().tolist() == pytest.approx([4.0] * 4, abs=0.3), "not about -5"
    assert values[:, 1].ravel().tolist() == pytest.approx([10.0] * 4, rel=0.03), "not about -1"


@EVERY
@KINDS
def test_credit_is_discounted_over_two_steps(kind: str, option: str) -> None:
    values = _values(_train(kind, TwoStep, option), 3)
    for column in values.transpose(0, 2, 1).reshape(4, 3):
        assert column[:2].tolist() == pytest.approx([0.9, 1.0], abs=0.03)


@KINDS
def test_the_rewarded_action_is_found(kind: str) -> None:
    # Critics of 16 units round off the leap of the reward, by up to 0.2; with these the worst of
    # ten seeds of each was 0.025.
    learner = _train(kind, ActionReward, hidden_sizes=(64, 64))
    with torch.no_grad():
        action, _ = learner.module.act(torch.ones(1, 1), None)
    assert float(action) >= 1
    values = _values(learner, 1)
    assert values[:, 0, 1].tolist() == pytest.approx([1.0] * 2, abs=0.05)
    assert values[:, 0, 0].tolist() == pytest.approx([-1.0] * 2, abs=0.05)


@KINDS
def test_values_follow_the_observation(kind: str) -> None:
    values = _values(_train(kind, ObservationReward), 2)
    for column in values.transpose(0, 2, 1).reshape(4, 2):
        assert column.tolist() == pytest.approx([0.0, 1.0], abs=0.03)


@KINDS
@pytest.mark.parametrize("num_environments", [1, 16])
def test_actions_follow_the_observation(kind: str, num_environments: int) -> None:
    learner = _train(kind, MatchObservation, "plain", num_environments)
    with torch.no_grad():
        actions, _ = learner.module.act(torch.eye(2), None)
    assert actions.ravel().ge(1).tolist() == [False, True]


@pytest.mark.parametrize("kind", ["sac", "td3"])
def test_the_wanted_action_of_a_bandit_is_found_exactly(kind: str) -> None:
    class Shifted(ReachTarget):
        """The target is 0.5 of [-2, 2], which `Continuous` calls 1.25 of [0, 2]."""

        def step(self, action: Any) -> Any:
            return super().step(np.array([2 * action - 2], np.float32))

    # As exactly as the critics know it: these found it to 0.01 with each of ten seeds, the
    # coarser ones of the other tests missed it by up to 0.2.
    finer: dict[str, dict[str, Any]] = {
        "sac": {"hidden_sizes": (64, 64), "updates_per_step": 8, "ent_coef": 0.01},
        "td3": {
            "hidden_sizes": (32, 32),
            "activation": "tanh",
            "updates_per_step": 16,
            "learning_rate": 5e-3,
        },
    }
    learner = _train(kind, Shifted, **finer[kind])
    with torch.no_grad():
        action, _ = learner.module.act(torch.ones(1, 1), None)
    assert float(action) == pytest.approx(1.25, abs=0.03)


def test_entropy_is_worth_what_the_coefficient_says() -> None:
    """Two equal actions, one state, no reward: V = alpha ln 2 / (1 - gamma)."""

    class Nothing(EndlessReward):
        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, 0.0, *rest

    learner = _train("discrete sac", Nothing, ent_coef=0.5)
    assert isinstance(learner, SACLearner)
    with torch.no_grad():
        values, log_probs = learner.soft_values(
            learner.critics, torch.eye(1), torch.tensor(0.5), None
        )
    assert float(-log_probs) == pytest.approx(np.log(2), abs=0.01)
    assert float(values) == pytest.approx(0.5 * np.log(2) / 0.1, rel=0.03)
