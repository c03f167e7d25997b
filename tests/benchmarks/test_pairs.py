"""What one side of a comparison says of itself: how fast it trained, and what it reached."""

import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import rl
from benchmarks import _pairs


class Clock:
    """Stands still but while something learns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(_pairs, "time", made)
    return made


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("stable_baselines3")
    module.__version__ = "7.8.9"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stable_baselines3", module)


def model(clock: Clock, episodes: list[dict[str, float]]) -> Any:
    """What looks like one of the peer: in 4 s it takes a fifth more steps than it is told."""
    made = SimpleNamespace(num_timesteps=0, ep_info_buffer=episodes)

    def learn(steps: int) -> None:
        clock.now += 4.0
        made.num_timesteps = steps + steps // 5

    made.learn = learn
    return made


def test_ours_is_timed_while_it_learns(clock: Clock) -> None:
    def learn() -> Any:
        clock.now += 4.0
        return SimpleNamespace(env_steps=64, episode_return_mean=12.5)

    told = _pairs.learn(SimpleNamespace(learn=learn))
    assert told == {"steps_per_second": 16.0, "return": 12.5, "version": rl.__version__}


def test_an_algorithm_is_what_it_takes() -> None:
    config = rl.PPOConfig(env="CartPole-v1", total_steps=256, rollout_length=64, num_epochs=1)
    with config.build() as algorithm:
        told = _pairs.learn(algorithm)
        assert algorithm.env_steps == 256
    assert told["steps_per_second"] > 0
    assert 8 < told["return"] < 100  # a policy that hardly learnt


@pytest.mark.usefixtures("peer")
def test_the_peer_is_timed_by_the_steps_it_took(clock: Clock) -> None:
    told = _pairs.learn_sb3(model(clock, [{"r": 10.0, "l": 3}, {"r": 15.0, "l": 4}]), 100)
    assert told == {"steps_per_second": 30.0, "return": 12.5, "version": "7.8.9"}


@pytest.mark.usefixtures("peer")
def test_a_peer_that_ended_no_episode_has_no_return(clock: Clock) -> None:
    assert math.isnan(_pairs.learn_sb3(model(clock, []), 100)["return"])
