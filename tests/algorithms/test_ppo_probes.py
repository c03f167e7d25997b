"""PPO finds the known values of the probe environments, with 1, 3 and 16 environments."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

from rl.algorithms.ppo import PPO
from rl.configs.ppo import PPOConfig
from rl.core.models.policy import Policy
from rl.testing.probe_envs import (
    ActionReward,
    EndlessReward,
    MatchObservation,
    ObservationReward,
    ReachTarget,
    TwoStep,
    WrongSuccessor,
)

WIDTHS = pytest.mark.parametrize("num_environments", [1, 3, 16])
MakeEnv = Callable[[], gymnasium.Env[Any, Any]]


def _train(env: MakeEnv, num_environments: int, steps: int, **settings: Any) -> Policy:
    batch = 96
    config = PPOConfig(
        **{
            "env": env,
            "seed": 3,
            "gamma": 0.9,
            "gae_lambda": 0.9,
            "learning_rate": 1e-2,
            "learning_rate_final": 1e-3,
            "hidden_sizes": (16,),
            "total_steps": steps,
            "rollout_length": batch // num_environments,
            "minibatch_size": 32,
            "num_epochs": 8,
            "env_runners": {"num": 1, "envs_per_runner": num_environments},
            **settings,
        }
    )
    with PPO(config) as ppo:
        ppo.learn()
        return ppo.policy


def _values(policy: Policy, num_states: int) -> list[float]:
    values: list[float] = policy.value(np.eye(num_states, dtype=np.float32)).tolist()
    return values


@WIDTHS
def test_a_time_limit_does_not_end_the_value(num_environments: int) -> None:
    policy = _train(EndlessReward, num_environments, 20_000)
    assert _values(policy, 1)[0] == pytest.approx(10.0, rel=0.05)


@WIDTHS
def test_termination_ends_the_value(num_environments: int) -> None:
    policy = _train(partial(EndlessReward, 3, "terminated"), num_environments, 8_000)
    assert _values(policy, 4)[:3] == pytest.approx([2.71, 1.9, 1.0], rel=0.05)


@WIDTHS
def test_the_observation_after_a_reset_never_enters_a_bootstrap(num_environments: int) -> None:
    policy = _train(WrongSuccessor, num_environments, 24_000)
    start, later = _values(policy, 2)
    assert start == pytest.approx(4.0, abs=0.5), "the wrong answer is about -6"
    assert later == pytest.approx(10.0, rel=0.05), "the wrong answer is about -1"


@WIDTHS
def test_credit_is_discounted_over_two_steps(num_environments: int) -> None:
    policy = _train(TwoStep, num_environments, 8_000)
    assert _values(policy, 3)[:2] == pytest.approx([0.9, 1.0], abs=0.03)


@WIDTHS
def test_the_rewarded_action_is_found(num_environments: int) -> None:
    policy = _train(ActionReward, num_environments, 6_000)
    observation = np.ones(1, np.float32)
    assert policy.act(observation) == 1
    chance = policy.distribution(observation).log_prob(_tensor([1])).exp().item()
    assert chance > 0.95
    assert policy.value(observation) == pytest.approx(1.0, abs=0.1)


@WIDTHS
def test_values_follow_the_observation(num_environments: int) -> None:
    policy = _train(ObservationReward, num_environments, 8_000)
    assert _values(policy, 2) == pytest.approx([0.0, 1.0], abs=0.05)


@WIDTHS
def test_actions_follow_the_observation(num_environments: int) -> None:
    policy = _train(MatchObservation, num_environments, 10_000)
    assert policy.act(np.eye(2, dtype=np.float32)).tolist() == [0, 1]
    assert _values(policy, 2) == pytest.approx([1.0, 1.0], abs=0.1)


@WIDTHS
def test_a_continuous_action_is_found(num_environments: int) -> None:
    policy = _train(ReachTarget, num_environments, 16_000)
    assert policy.act(np.ones(1, np.float32))[0] == pytest.approx(0.5, abs=0.1)


def _tensor(values: list[int]) -> Any:
    import torch

    return torch.tensor(values)
