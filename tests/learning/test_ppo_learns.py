"""PPO with its presets: fixed seeds, two of three above a threshold with margin."""

from typing import Any

import pytest

from rl.configs.ppo import PPOConfig
from rl.configs.presets import find_preset


def _evaluations(env: str, seeds: tuple[int, ...] = (1, 2, 3), **settings: Any) -> list[float]:
    preset = find_preset("ppo", env)
    assert preset is not None
    found = []
    for seed in seeds:
        config = PPOConfig(**preset | settings | {"env": env, "seed": seed})
        with config.build() as ppo:
            ppo.learn()
            found.append(ppo.evaluate(num_episodes=20).mean)
    return found


def _second_best(values: list[float]) -> float:
    return sorted(values)[-2]


def test_cartpole_is_solved() -> None:
    assert _second_best(_evaluations("CartPole-v1")) >= 475


@pytest.mark.slow
def test_cartpole_is_solved_by_a_policy_one_update_behind() -> None:
    runners = {"num": 1, "envs_per_runner": 8, "overlap": True}
    assert min(_evaluations("CartPole-v1", env_runners=runners)) >= 475


@pytest.mark.slow
def test_pendulum_swings_up() -> None:
    assert _second_best(_evaluations("Pendulum-v1")) >= -250


@pytest.mark.slow
def test_mountain_car_continuous_reaches_the_top() -> None:
    assert _second_best(_evaluations("MountainCarContinuous-v0")) >= 90


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_lunar_lander_lands() -> None:
    assert _evaluations("LunarLander-v3", seeds=(1,))[0] >= 200


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_acrobot_swings_up() -> None:
    assert _second_best(_evaluations("Acrobot-v1", total_steps=300_000)) >= -100


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_half_cheetah_runs_with_normalisation() -> None:
    assert _evaluations("HalfCheetah-v5", seeds=(1,))[0] >= 1400


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("env", "least"), [("CartPole-v1", 475), ("Pendulum-v1", -250)])
def test_two_learners_learn_as_one(env: str, least: float) -> None:
    assert _evaluations(env, seeds=(1,), learners={"num": 2})[0] >= least
