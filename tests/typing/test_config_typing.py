"""A type checker knows the names and types of settings, also in `with_<section>()`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

GOOD = """
import dataclasses
from typing import assert_type
import rl
from rl.configs import AlgorithmConfig, config

made = rl.PPOConfig(env="CartPole-v1", gamma=0.9, hidden_sizes=(64, 64))
assert_type(made.with_env_runners(num=2, envs_per_runner=8), rl.PPOConfig)
assert_type(made.with_learners(device="cpu").with_evaluation(interval=3), rl.PPOConfig)
assert_type(dataclasses.replace(made, gamma=0.5), rl.PPOConfig)
assert_type(made.build(), rl.PPO)

@config
class MyConfig(AlgorithmConfig):
    horizon: int = 3

assert_type(MyConfig(horizon=4, gamma=0.5).with_metrics(window=3).horizon, int)
"""

BAD = {
    "rl.PPOConfig(gama=0.5)": "call-arg",
    "rl.PPOConfig(gamma='high')": "arg-type",
    "rl.PPOConfig('CartPole-v1')": "call-arg",
    "rl.PPOConfig(activation='sine')": "arg-type",
    "rl.PPOConfig().with_env_runners(nun=2)": "call-arg",
    "rl.PPOConfig().with_env_runners(num='2')": "arg-type",
    "rl.PPOConfig().gamma = 0.5": "misc",
}


def check(path: Path) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout + run.stderr


@pytest.mark.slow
def test_a_type_checker_knows_settings(tmp_path: Path) -> None:
    lines = ["import rl", *BAD]
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text("\n".join(lines) + "\n")
    assert "Success" in check(tmp_path / "good.py")
    found = dict(re.findall(r"bad\.py:(\d+): error: .*\[([a-z-]+)\]", check(tmp_path / "bad.py")))
    assert found == {str(line): kind for line, kind in enumerate(BAD.values(), 2)}
