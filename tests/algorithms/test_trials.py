"""Placements of a run's environments: which are tried, how they are measured, which are alike."""

import time
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rl.algorithms.dqn import DQNConfig
from rl.algorithms.ppo import PPOConfig
from rl.algorithms.trials import Measured, Placement, as_fast, as_measured, measure, placements
from rl.configs.algorithm_config import AlgorithmConfig


def tried(config: AlgorithmConfig, cores: int, *, vary: bool = False) -> list[str]:
    return [str(placement) for placement in placements(config, cores, vary=vary)]


def ppo(num: int, each: int, **settings: Any) -> PPOConfig:
    runners = {"num": num, "envs_per_runner": each}
    return PPOConfig(env_runners=runners, rollout_length=64, **settings)


def test_the_environments_together_stay_as_many() -> None:
    expected = ["1 x 8, inline", "1 x 8, process", "2 x 4, process", "4 x 2, process"]
    assert tried(ppo(1, 8), 4) == expected


def test_there_are_no_more_runners_than_cores_but_those_the_config_has() -> None:
    assert tried(ppo(1, 6), 2) == ["1 x 6, inline", "1 x 6, process", "2 x 3, process"]
    own = ["1 x 6, inline", "6 x 1, inline", "1 x 6, process", "2 x 3, process", "6 x 1, process"]
    assert tried(ppo(6, 1), 2) == own


def test_one_core_is_enough_for_one_process_only() -> None:
    assert tried(ppo(1, 8), 1) == ["1 x 8, inline"]
    learners = {"num": 2}
    assert tried(ppo(1, 8, learners=learners), 1) == ["1 x 8, process"]


def test_an_engine_that_the_config_names_is_the_only_one() -> None:
    assert tried(ppo(1, 4, runtime={"engine": "inline"}), 4) == ["1 x 4, inline"]
    process = ["1 x 4, process", "2 x 2, process", "4 x 1, process"]
    assert tried(ppo(1, 4, runtime={"engine": "process"}), 4) == process


def test_what_contradicts_the_settings_is_not_tried() -> None:
    elastic = PPOConfig(env_runners={"num": 4, "envs_per_runner": 2, "min": 2})
    assert tried(elastic, 4) == ["2 x 4, process", "4 x 2, process"]


def test_other_numbers_of_environments_come_last_and_only_when_asked_for() -> None:
    found = placements(ppo(1, 2), 2, vary=True)
    assert [placement.environments for placement in found[:3]] == [2, 2, 2]
    assert {placement.environments for placement in found[3:]} == {1, 4, 8}


def test_placing_changes_nothing_else() -> None:
    config = ppo(1, 8, seed=3)
    placed = Placement(2, 4, "process").of(config)
    assert placed.with_env_runners(num=1, envs_per_runner=8).with_runtime(engine="auto") == config


def test_learning_starts_early_enough_to_be_measured_and_nothing_is_evaluated() -> None:
    config = DQNConfig(
        learning_starts=50_000, batch_size=32, evaluation={"interval": 5, "video_interval": 2}
    )
    trained = as_measured(config).checked()
    assert trained.learning_starts == 64
    assert trained.evaluation.interval == 0
    assert as_measured(DQNConfig(learning_starts=10, batch_size=32)).learning_starts == 10


def of(speeds: list[float], runners: int = 1, engine: str = "inline") -> Measured:
    return Measured(Placement(runners, 4, engine), speeds)


def test_what_is_faster_beyond_the_noise_stands_alone() -> None:
    slow, fast = of([100, 101, 102]), of([120, 121, 122], 2, "process")
    assert as_fast([slow, fast]) == [fast]


def test_of_those_within_the_noise_the_simplest_comes_first() -> None:
    plain, more, most = of([96, 98, 99]), of([97, 101, 103], 2), of([99, 102, 104], 2, "process")
    assert as_fast([most, more, plain]) == [plain, more, most]


def test_ranges_that_meet_are_noise_however_far_the_medians() -> None:
    plain, wide = of([60, 70, 85]), of([80, 120, 125], 2, "process")
    assert as_fast([plain, wide]) == [plain, wide]


def test_a_single_measurement_tells_less() -> None:
    assert len(as_fast([of([92]), of([100], 2)])) == 2
    assert len(as_fast([of([92, 92]), of([100, 100], 2)])) == 1


class Waking(gymnasium.Env[Any, Any]):
    """Slow for its first 64 steps, as what has to be loaded first is."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.taken = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.taken += 1
        if self.taken <= 64:
            time.sleep(0.01)
        return np.zeros(2, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("seconds", [0.01, 0.6])
def test_the_warm_up_does_not_count(seconds: float) -> None:
    config = PPOConfig(env=Waking, rollout_length=64, minibatch_size=64, num_epochs=1)
    said: list[str] = []
    (found,) = measure(as_measured(config), [Placement(1, 1, "inline")], seconds, said.append)
    assert found.speed > 500  # 100 a second at first
    assert len(said) == len(found.speeds)
    assert sum(found.spent.shares().values()) == pytest.approx(1.0)


def test_turns_go_forwards_and_backwards() -> None:
    config = PPOConfig(rollout_length=64, num_epochs=1)
    said: list[str] = []
    candidates = [Placement(1, 1, "inline"), Placement(2, 1, "inline")]
    now = iter(range(10**6))
    measure(as_measured(config), candidates, 1e5, said.append, clock=lambda: next(now) * 400.0)
    order = [line.partition(": ")[2] for line in said]
    one, two = (str(candidate) for candidate in candidates)
    assert order == [one, two, two, one, one, two]


def test_a_turn_that_takes_too_long_is_the_last() -> None:
    config = PPOConfig(rollout_length=64, num_epochs=1)
    found = measure(config, [Placement(1, 1, "inline")], 1e-6, lambda text: None)
    assert [len(one.speeds) for one in found] == [1]


def test_what_is_learnt_from_is_counted_after_learning_starts() -> None:
    config = DQNConfig(learning_starts=20_000, batch_size=200)
    (found,) = measure(config, [Placement(1, 1, "inline")], 1.5, lambda text: None)
    assert found.spent.shares()["learning"] > 0.2


def test_a_long_row_of_metrics_does_not_make_a_turn_long() -> None:
    config = DQNConfig(learning_starts=64, metrics={"interval": 10**6})
    began = time.perf_counter()
    measure(config, [Placement(1, 1, "inline")], 0.3, lambda text: None)
    assert time.perf_counter() - began < 20.0  # the row takes minutes
