"""SAC and TD3 with their presets: fixed seeds, thresholds with margin."""

import pytest

from tests.learning.presets import evaluation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("algo", ["sac", "td3"])
def test_pendulum_is_swung_up(algo: str) -> None:
    assert evaluation(algo, "Pendulum-v1", seed=1) >= -170


def test_discrete_sac_learns_cartpole() -> None:
    assert evaluation("sac", "CartPole-v1", seed=1) >= 400
