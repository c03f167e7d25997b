"""Processes come and go, the rollouts stay the same."""

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from rl.algorithms.ppo import PPO
from rl.configs.ppo import PPOConfig
from rl.core.runtime.resources import available_cpus
from rl.env_runners.elastic import _shares
from rl.errors import ConfigError, EnvironmentFault, ResourcesUnavailable
from rl.testing.algorithms import weights_of
from rl.testing.probe_envs import MatchObservation

ITERATIONS = 6


def _config(engine: str, processes: int = 0, **runtime: Any) -> PPOConfig:
    """Four runners; of processes there is room for so many."""
    resources = {"cpu": available_cpus() / processes} if processes else {}
    return PPOConfig(
        env="CartPole-v1",
        seed=3,
        rollout_length=16,
        minibatch_size=64,
        num_epochs=1,
        env_runners={"num": 4, "envs_per_runner": 2, "min": 0 if engine == "inline" else 1},
        runtime={"engine": engine, "runner_resources": resources, **runtime},
    )


def _trained(config: PPOConfig, between: Callable[[PPO, int], None] = lambda *_: None) -> Any:
    with PPO(config) as ppo:
        for iteration in range(ITERATIONS):
            between(ppo, iteration)
            ppo.train()
        return weights_of(ppo), ppo.env_runners.health(), ppo.env_steps


@pytest.fixture(scope="module")
def undisturbed() -> Any:
    return _trained(_config("inline"))


def _hosts(ppo: PPO) -> list[Any]:
    hosts: list[Any] = ppo.env_runners._hosts  # type: ignore[union-attr]
    return hosts


def _until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("processes", [1, 2])
def test_fewer_processes_than_runners_give_the_same_bits(processes: int, undisturbed: Any) -> None:
    weights, health, steps = _trained(_config("process", processes))
    assert (weights, steps) == (undisturbed[0], undisturbed[2])
    assert health["sampler/alive"] == processes
    assert health["sampler/discarded_steps"] == 0


def test_many_runners_share_few_processes(undisturbed: Any) -> None:
    weights, health, _ = _trained(_config("process").with_env_runners(max=2))
    assert weights == undisturbed[0]
    assert health["sampler/alive"] == 2


def test_a_process_that_dies_costs_its_fragments_and_comes_back(undisturbed: Any) -> None:
    def disturb(ppo: PPO, iteration: int) -> None:
        if iteration in (2, 4):
            _until(lambda: all(host.alive for host in _hosts(ppo)))
            os.kill(_hosts(ppo)[iteration // 2].handle.pid, signal.SIGKILL)

    weights, health, steps = _trained(_config("process", 4), disturb)
    assert (weights, steps) == (undisturbed[0], undisturbed[2])
    assert health["sampler/restarts"] == 2
    assert health["sampler/restored_steps"] > 0
    assert health["sampler/discarded_steps"] == 0


def test_the_run_goes_on_without_a_process_that_stays_away(
    undisturbed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def disturb(ppo: PPO, iteration: int) -> None:
        if iteration == 2:
            _until(lambda: _hosts(ppo)[1].alive)
            os.kill(_hosts(ppo)[1].handle.pid, signal.SIGKILL)

    with caplog.at_level(logging.WARNING):
        weights, health, _ = _trained(_config("process", 2, max_restarts=1), disturb)
    assert weights == undisturbed[0]
    assert health["sampler/alive"] in (1, 2)


def test_a_process_that_finds_room_later_joins(undisturbed: Any) -> None:
    alive = []

    def disturb(ppo: PPO, iteration: int) -> None:
        if iteration == 2:
            _hosts(ppo)[0].handle.kill()  # for good: its room is there for another
        if iteration == 4:
            _until(lambda: sum(host.alive for host in _hosts(ppo)) == 2)
        alive.append([host.alive for host in _hosts(ppo)])

    weights, _, _ = _trained(_config("process", 2), disturb)
    assert weights == undisturbed[0]
    assert alive[4][0] is False
    assert alive[4][2] is True, "it had to wait at first"


def test_runners_are_dealt_out_evenly_and_few_move() -> None:
    a, b, c = object(), object(), object()
    shares: Callable[..., dict[object, int]] = _shares
    assert shares([None] * 4, [a, b]) == {a: 2, b: 2}
    assert shares([a, a, b, None], [a, b]) == {a: 2, b: 2}
    assert shares([a, a, b, b, None], [a, b]) == {a: 3, b: 2}
    assert shares([b, b, b, a, a], [a, b]) == {b: 3, a: 2}, "nobody moves"
    assert shares([a, a, a, b, b], [a, b, c]) == {a: 2, b: 2, c: 1}
    assert shares([a, a, a], [b]) == {b: 3}


def test_too_few_processes_end_the_run_with_what_was_asked_for() -> None:
    with PPO(_config("process", 1).with_env_runners(min=2)) as ppo:
        _until(lambda: any(host.alive for host in _hosts(ppo)))
        ppo.env_runners._patience = 0.5  # type: ignore[union-attr]
        with pytest.raises(ResourcesUnavailable, match=r"env_runners\.min is 2, .* there are 1"):
            ppo.train()


class Raises(MatchObservation):
    """Raises in its first step."""

    def step(self, action: Any) -> Any:
        raise ZeroDivisionError("theirs")


def test_an_environments_error_ends_the_run() -> None:
    with pytest.raises(EnvironmentFault, match="theirs"):
        _trained(PPOConfig(**{**_config("process", 2).values(), "env": Raises}))


def test_a_checkpoint_goes_on_with_other_processes(undisturbed: Any, tmp_path: Any) -> None:
    with PPO(_config("process", 2)) as ppo:
        for _ in range(3):
            ppo.train()
        ppo.save(tmp_path / "half")
    with PPO.load(tmp_path / "half") as ppo:
        for _ in range(3):
            ppo.train()
        assert weights_of(ppo) == undisturbed[0]


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"env_runners\.min: is 5, but there are 4 processes"):
        _config("process").with_env_runners(min=5).checked()
    with pytest.raises(ConfigError, match=r"env_runners\.max: is 5, but env_runners\.num is 4"):
        _config("process").with_env_runners(max=5).checked()
    with pytest.raises(ConfigError, match=r"env_runners\.max: .* write both"):
        _config("process").with_env_runners(min=0, max=2).checked()
    with pytest.raises(ConfigError, match="no processes"):
        _config("inline").with_env_runners(min=1).checked()
    with pytest.raises(ConfigError, match="strict_spread"):
        _config("ray", placement="strict_spread").checked()
