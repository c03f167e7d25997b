"""What a network looks like follows the settings."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import rl
from rl.algorithms.dqn import DQNLearner
from rl.core.data.spaces import Spaces
from rl.core.models.spec import NetworkSpec, PolicySpec

SPACES = Spaces(spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2))
SHARED: dict[str, Any] = {
    "hidden_sizes": (7, 5),
    "activation": "elu",
    "normalize_observations": True,
    "image_encoder": "impala",
    "encoder": "package.module:Class",
    "encoder_kwargs": {"width": 3},
}
OF_PPO: dict[str, Any] = {
    "shared_torso": True,
    "orthogonal_init": False,
    "log_std_init": -1.0,
    "memory": "lstm",
    "memory_size": 9,
}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (PolicySpec, rl.SACConfig(env="CartPole-v1", **SHARED)),
        (PolicySpec, rl.TD3Config(env="Pendulum-v1", **SHARED)),
        (NetworkSpec, rl.PPOConfig(env="CartPole-v1", **SHARED, **OF_PPO)),
    ],
)
def test_every_setting_of_a_network_reaches_its_spec(kind: Any, config: Any) -> None:
    settings = SHARED | (OF_PPO if kind is NetworkSpec else {})
    assert kind.of(config, SPACES) == kind(SPACES.observation, SPACES.action, **settings)


def test_what_is_said_goes_before_settings() -> None:
    config = rl.PPOConfig(env="CartPole-v1", **SHARED)
    assert NetworkSpec.of(config, SPACES, activation="relu").activation == "relu"


def test_atoms_and_noise_are_there_only_where_they_are_switched_on() -> None:
    ranged: dict[str, Any] = {"v_min": -1.0, "v_max": 2.0, "num_atoms": 11}
    config = rl.DQNConfig(env="CartPole-v1", dueling=True, distributional=True, **ranged)
    spec = DQNLearner.make_module(config, SPACES).spec
    assert (spec.num_atoms, spec.v_min, spec.v_max) == (11, -1.0, 2.0)
    assert spec.dueling
    assert spec.noisy_sigma == 0.0
    spec = DQNLearner.make_module(rl.DQNConfig(env="CartPole-v1", noisy=True), SPACES).spec
    assert (spec.num_atoms, spec.v_min, spec.v_max) == (1, 0.0, 0.0)
    assert spec.noisy_sigma == 0.5
