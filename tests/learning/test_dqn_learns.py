"""DQN with its presets: fixed seeds, thresholds with margin."""

from typing import Any

import pytest

from rl.configs.dqn import DQNConfig
from rl.configs.presets import find_preset


def _evaluation(env: str, seed: int, **settings: Any) -> float:
    preset = find_preset("dqn", env)
    assert preset is not None
    with DQNConfig(**preset | settings | {"env": env, "seed": seed}).build() as dqn:
        dqn.learn()
        return dqn.evaluate(num_episodes=20).mean


@pytest.mark.slow
def test_cartpole_is_solved() -> None:
    assert _evaluation("CartPole-v1", 1) >= 475
