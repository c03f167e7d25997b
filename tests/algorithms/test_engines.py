"""The engine, kills and hangs change nothing: the same config gives the same bits."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from rl.algorithms.ppo import PPO, PPOConfig
from rl.algorithms.workers import choose_engine
from rl.errors import EnvironmentFault, RestartsExhausted
from rl.testing.algorithms import weights_of
from rl.testing.probe_envs import MatchObservation, WrongSuccessor

NATIVE = {"vectorization": "native"}


def _config(env: Any, engine: str, **settings: Any) -> PPOConfig:
    return PPOConfig(
        **{
            "env": env,
            "seed": 3,
            "rollout_length": 32,
            "minibatch_size": 64,
            "num_epochs": 2,
            "total_steps": 2048,
            "env_runners": {"num": 2, "envs_per_runner": 4},
            "runtime": {"engine": engine, "max_restarts": 100},
            **settings,
        }
    )


def _learnt(config: PPOConfig, meanwhile: Callable[[PPO], None] | None = None) -> dict[str, bytes]:
    with PPO(config) as ppo:
        if meanwhile is not None:
            meanwhile(ppo)
        ppo.learn()
        return weights_of(ppo)


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {"normalize_observations": True, "normalize_rewards": True}),
        (MatchObservation, {}),
        (WrongSuccessor, {"activation": "relu"}),
        ("CartPole-v1", {"env_runners": {"num": 2, "envs_per_runner": 4, **NATIVE}}),
    ],
)
def test_processes_give_the_same_bits_as_inline(env: Any, settings: dict[str, Any]) -> None:
    inline = _learnt(_config(env, "inline", **settings))
    assert _learnt(_config(env, "process", **settings)) == inline


def test_an_environment_of_the_script_at_hand_travels_to_the_workers() -> None:
    length = 7

    class Local(MatchObservation):
        def step(self, action: Any) -> Any:
            self.steps += 1
            observation, reward, _, _, info = super().step(action)
            return observation, reward, False, self.steps == length, info

    inline = _learnt(_config(Local, "inline"))
    assert _learnt(_config(Local, "process")) == inline


def test_a_native_vector_environment_counts_its_steps_and_says_what_a_kill_cost() -> None:
    runners = {"num": 2, "envs_per_runner": 4, **NATIVE}
    with PPO(_config("CartPole-v1", "process", env_runners=runners)) as ppo:
        first = ppo.train()
        assert 200 < first.env_steps < 256  # 32 rows of 8, but for those that are resets
        for _ in range(3):
            result = ppo.train()
        assert [at for at, _ in result.episodes] == sorted(at for at, _ in result.episodes)
        assert all(ppo.env_steps >= at > ppo.env_steps - 256 for at, _ in result.episodes)
        assert result.metrics["sampler/discarded_steps"] == 0
        unfinished = ppo.env_runners.states[0].steps
        pid = ppo.env_runners._runners[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        result = ppo.train()
        assert result.metrics["sampler/discarded_steps"] == unfinished > 0
        assert result.metrics["sampler/restored_steps"] == 0


def _killer(ppo: PPO, kills: int, rhythm: tuple[float, float]) -> threading.Thread:
    """Kills a random runner now and then, once it answers, until it has done so `kills` times."""
    chance = random.Random(7)

    def kill() -> None:
        killed: set[int] = set()
        while len(killed) < kills and ppo.env_runners._runners:
            time.sleep(chance.uniform(*rhythm))
            runners = ppo.env_runners._runners
            pid = runners[chance.randrange(len(runners))].pid if runners else None
            if pid is not None and pid not in killed:  # its death may not have been noticed yet
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def _until_restarted(ppo: PPO, restarts: int) -> float:
    """Trains until the runners were made anew so often; returns the count."""
    while ppo.env_runners.health()["sampler/restarts"] < restarts:
        ppo.train()
    return ppo.env_runners.health()["sampler/restarts"]


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_runners_change_nothing(kills: int) -> None:
    with PPO(_config("CartPole-v1", "process")) as ppo:
        ppo.train()
        thread = _killer(ppo, kills, (0.05, 0.3))
        restarts = _until_restarted(ppo, kills)
        thread.join(60)
        iterations, disturbed, health = ppo.iteration, weights_of(ppo), ppo.env_runners.health()
    assert restarts >= kills
    assert health["sampler/discarded_steps"] == 0
    assert health["sampler/restored_steps"] > 0
    with PPO(_config("CartPole-v1", "inline")) as ppo:
        for _ in range(iterations):
            ppo.train()
        assert weights_of(ppo) == disturbed


class Unrepeatable(gymnasium.Env[Any, Any]):
    """Long episodes whose observations come from the operating system's randomness."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self._observe(), 1.0, False, self.steps == 500, {}

    def _observe(self) -> Any:
        return np.frombuffer(os.urandom(8), np.uint32).astype(np.float32) / np.float32(2**32)


def test_what_cannot_be_restored_starts_afresh_and_is_counted() -> None:
    with PPO(_config(Unrepeatable, "process")) as ppo:
        ppo.train()
        pid = ppo.env_runners._runners[1].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        result = ppo.train()
        result = ppo.train()
    assert result.env_steps == 3 * 256
    assert result.metrics["sampler/restarts"] == 1
    assert result.metrics["sampler/discarded_steps"] == 4 * 32, "what runner 1 had in progress"
    assert result.metrics["sampler/restored_steps"] == 0


class HangsOnce(gymnasium.Wrapper[Any, Any, Any, Any]):
    """CartPole that sleeps for ever in its 40th step, the first time anybody gets there."""

    def __init__(self, flag: Path) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        self.flag = flag
        self.steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == 40 and not self.flag.exists():
            self.flag.touch()
            time.sleep(1000)
        return super().step(action)


def test_a_runner_that_hangs_is_replaced_and_changes_nothing(tmp_path: Path) -> None:
    hanging = partial(HangsOnce, tmp_path / "hung")
    runners = {"num": 2, "envs_per_runner": 4, "step_timeout": 1.0}
    disturbed = _learnt(_config(hanging, "process", env_runners=runners))
    assert (tmp_path / "hung").exists()
    (tmp_path / "other").touch()
    calm = partial(HangsOnce, tmp_path / "other")
    assert _learnt(_config(calm, "inline")) == disturbed


class DiesAlways(MatchObservation):
    """Ends its process in the first step."""

    def step(self, action: Any) -> Any:
        os._exit(5)


def test_a_runner_that_always_dies_ends_the_run() -> None:
    config = _config(DiesAlways, "process", runtime={"engine": "process", "max_restarts": 2})
    with pytest.raises(RestartsExhausted, match=r"exit code 5"):
        _learnt(config)


class Raises(MatchObservation):
    """Raises in its first step."""

    def step(self, action: Any) -> Any:
        raise ZeroDivisionError("theirs")


def test_an_environments_error_arrives_from_a_worker_with_its_traceback() -> None:
    with pytest.raises(EnvironmentFault, match=r"step 1 of its episode.*theirs") as fault:
        _learnt(_config(Raises, "process"))
    assert "raise ZeroDivisionError" in fault.value.user_traceback
    assert "fragment.py" not in fault.value.user_traceback.splitlines()[-2]


def test_auto_takes_processes_only_where_runners_work_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = _config("CartPole-v1", "auto")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert choose_engine(many) == "process"
    assert choose_engine(many.with_env_runners(num=1)) == "inline"
    assert choose_engine(many.with_runtime(engine="inline")) == "inline"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert choose_engine(many) == "inline"
