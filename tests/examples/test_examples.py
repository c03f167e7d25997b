"""Every example runs, in fewer steps than it would take to learn."""

import importlib
from pathlib import Path

import pytest

from examples.reinforce import ReinforceConfig
from rl.testing import check_algorithm

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("name", ["custom_environment", "custom_network", "use_a_policy"])
def test_the_example_runs(name: str) -> None:
    module = importlib.import_module(f"examples.{name}")
    assert isinstance(module.main(total_steps=1000), float)


def test_reinforce_does_what_every_algorithm_must() -> None:
    check_algorithm(ReinforceConfig(rollout_length=16).with_env_runners(num=2, envs_per_runner=2))


def test_reinforce_learns() -> None:
    config = ReinforceConfig(total_steps=100_000, seed=1)
    with config.build() as algorithm:
        assert algorithm.learn().episode_return_mean > 150


def test_every_example_is_short_and_tested() -> None:
    tested = {"custom_environment", "custom_network", "use_a_policy", "reinforce"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 100, path.name
