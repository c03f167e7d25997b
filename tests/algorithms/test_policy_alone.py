"""What is evaluated from `policy/` alone, in another process, is what the algorithm evaluates."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rl.algorithms.ppo import PPO, PPOConfig

ALONE = """
import json, sys
from rl.core.models.policy import Policy
from rl.env_runners.environments import EnvironmentFactory
from rl.env_runners.evaluation import evaluate_policy
played = evaluate_policy(Policy.load(sys.argv[1]), EnvironmentFactory(sys.argv[2]), 5, 7)
print(json.dumps([value.hex() for value in played.returns]))
"""


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("Pendulum-v1", {"normalize_observations": True, "normalize_rewards": True}),
        ("Acrobot-v1", {"normalize_observations": True, "activation": "relu"}),
    ],
)
def test_returns_are_the_same_to_the_bit(
    env: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    config = PPOConfig(env=env, rollout_length=64, minibatch_size=64, num_epochs=2, **settings)
    with PPO(config) as ppo:
        for _ in range(3):
            ppo.train()
        ppo.policy.save(tmp_path / "policy")
        within = [value.hex() for value in ppo.evaluate(5, seed=7).returns]
        again = [value.hex() for value in ppo.evaluate(5, seed=7).returns]
    assert again == within  # evaluating moved no statistics
    words = [sys.executable, "-c", ALONE, str(tmp_path / "policy"), env]
    alone = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(alone.stdout) == within
    if env == "Pendulum-v1":
        # Raw rewards: with none better than 0 and none worse than -16.3, and 200 of them.
        assert all(-200 * 16.3 < float.fromhex(value) < -1 for value in within)
