"""What a run does not import: it would be waited for before the first step of the environment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rl.algorithms.registry import algorithm_names

TRAIN = """
import sys
from rl.algorithms.registry import config_class

name = sys.argv[1]
env = "CartPole-v1" if name in ("ppo", "dqn") else "Pendulum-v1"
small = dict(buffer_size=300, learning_starts=32, batch_size=8) if name != "ppo" else {}
if name == "ppo":
    small = dict(rollout_length=32, minibatch_size=32)
config = config_class(name)(env=env, hidden_sizes=(8,), **small)
with config.with_env_runners(num=1, envs_per_runner=1).build() as algorithm:
    metrics = {}
    while algorithm.env_steps < 64:
        metrics |= algorithm.train().metrics
assert any(name.endswith("loss") for name in metrics), metrics
print(*[name for name in ("torch._dynamo", "sympy", "tensorboard") if name in sys.modules])
"""


@pytest.mark.parametrize("name", list(algorithm_names()))
def test_learning_imports_no_compiler(name: str) -> None:
    """torch's optimizers import its compiler when they are made: two seconds."""
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
