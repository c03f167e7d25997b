"""DQN with its presets: fixed seeds, thresholds with margin."""

import pytest

from tests.learning.presets import evaluation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("CartPole-v1", 475),
        ("CartPole-v1@rainbow", 475),
        ("Acrobot-v1", -90),
        ("MountainCar-v0", -115),
    ],
)
def test_a_preset_learns(name: str, least: float) -> None:
    assert evaluation("dqn", name, seed=1) >= least


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_lunar_lander_is_learnt() -> None:
    assert evaluation("dqn", "LunarLander-v3", seed=1) >= 140
