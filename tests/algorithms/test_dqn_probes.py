"""DQN finds the known values of the probe environments, with each of its options."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from rl.algorithms.dqn import DQN
from rl.configs.dqn import DQNConfig
from rl.core.models.policy import Policy
from rl.testing.probe_envs import (
    ActionReward,
    EndlessReward,
    MatchObservation,
    ObservationReward,
    TwoStep,
    WrongSuccessor,
)

ATOMS = {"distributional": True, "v_min": -6.0, "v_max": 12.0, "num_atoms": 37}
"""Every true value of the probes lies in the range, none of them in its middle."""
NOISY = {"noisy": True, "noisy_sigma": 0.1}
"""Less noise than by default: while there is some, the network of the means is a little off."""
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "double": {"double": True},
    "dueling": {"dueling": True},
    "n-step": {"n_step": 3},
    "prioritized": {"prioritized": True},
    "distributional": ATOMS,
    "noisy": NOISY,
    "polyak": {"tau": 0.2, "target_update_interval": 8},
    "all but C51 and noise": {"double": True, "dueling": True, "n_step": 3, "prioritized": True},
    "all": {
        "double": True,
        "dueling": True,
        "n_step": 3,
        "prioritized": True,
        **ATOMS,
        **NOISY,
    },
}
EVERY = pytest.mark.parametrize("option", OPTIONS)


def _train(env: Any, steps: int, option: str, num_environments: int = 3) -> Policy:
    config = DQNConfig(
        **{
            "env": env,
            "seed": 3,
            "gamma": 0.9,
            "learning_rate": 1e-2,
            "learning_rate_final": 1e-4,
            "hidden_sizes": (16,),
            "total_steps": steps,
            "buffer_size": 1000,
            "rollout_length": 8,
            "updates_per_step": 0.25,
            "target_update_interval": 32,
            "env_runners": {"num": 1, "envs_per_runner": num_environments},
            **OPTIONS[option],
        }
    )
    with DQN(config) as dqn:
        dqn.learn()
        return dqn.policy


def _values(policy: Policy, num_states: int) -> Any:
    return policy.q_values(np.eye(num_states, dtype=np.float32))


@EVERY
def test_a_time_limit_does_not_end_the_value(option: str) -> None:
    values = _values(_train(EndlessReward, 3000, option), 1)
    assert values.ravel().tolist() == pytest.approx([10.0] * 2, rel=0.02)


@EVERY
def test_termination_ends_the_value(option: str) -> None:
    values = _values(_train(partial(EndlessReward, 3, "terminated"), 2500, option), 4)
    for action in (0, 1):
        assert values[:3, action].tolist() == pytest.approx([2.71, 1.9, 1.0], abs=0.03)


@EVERY
def test_the_observation_after_a_reset_never_enters_a_bootstrap(option: str) -> None:
    values = _values(_train(WrongSuccessor, 4000, option), 2)
    assert values[0].tolist() == pytest.approx([4.0] * 2, abs=0.2), "the wrong answer is about -5"
    assert values[1].tolist() == pytest.approx([10.0] * 2, rel=0.02), "the wrong one about -1"


@EVERY
def test_credit_is_discounted_over_two_steps(option: str) -> None:
    values = _values(_train(TwoStep, 2500, option), 3)
    for action in (0, 1):
        assert values[:2, action].tolist() == pytest.approx([0.9, 1.0], abs=0.02)


@EVERY
def test_the_rewarded_action_is_found(option: str) -> None:
    policy = _train(ActionReward, 2000, option)
    assert policy.act(np.ones(1, np.float32)) == 1
    assert _values(policy, 1)[0].tolist() == pytest.approx([-1.0, 1.0], abs=0.03)


@EVERY
def test_values_follow_the_observation(option: str) -> None:
    values = _values(_train(ObservationReward, 2000, option), 2)
    for action in (0, 1):
        assert values[:, action].tolist() == pytest.approx([0.0, 1.0], abs=0.02)


@EVERY
@pytest.mark.parametrize("num_environments", [1, 16])
def test_actions_follow_the_observation(option: str, num_environments: int) -> None:
    policy = _train(MatchObservation, 2000, option, num_environments)
    assert policy.act(np.eye(2, dtype=np.float32)).tolist() == [0, 1]
    assert _values(policy, 2).ravel().tolist() == pytest.approx([1, 0, 0, 1], abs=0.03)
