"""On Ray, too, the same config gives the same bits, and kills change nothing."""

import os
import random
import signal
import threading
import time
from typing import Any

import pytest

from rl.algorithms.algorithm import Algorithm
from rl.configs.algorithm_config import AlgorithmConfig
from rl.configs.dqn import DQNConfig
from rl.configs.ppo import PPOConfig
from rl.errors import ResourcesUnavailable
from rl.testing.algorithms import weights_of

pytest.importorskip("ray", reason="needs the extra `ray`: pip install -e '.[ray]'")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.xdist_group("ray"),
    pytest.mark.usefixtures("ray_here"),
]

SMALL: dict[str, AlgorithmConfig] = {
    "ppo": PPOConfig(rollout_length=32, minibatch_size=64, num_epochs=2, total_steps=2048),
    "dqn": DQNConfig(
        rollout_length=8, learning_starts=128, batch_size=32, buffer_size=1000, total_steps=1024
    ),
}
CONFIGS = {
    name: config.with_env_runners(num=2, envs_per_runner=4) for name, config in SMALL.items()
}


def _learnt(config: AlgorithmConfig, engine: str, **runtime: Any) -> dict[str, bytes]:
    with config.with_runtime(engine=engine, **runtime).build() as algorithm:
        algorithm.learn()
        return weights_of(algorithm)


@pytest.mark.parametrize("name", CONFIGS)
def test_inline_processes_and_ray_give_the_same_bits(name: str) -> None:
    config = CONFIGS[name]
    inline = _learnt(config, "inline")
    assert _learnt(config, "process") == inline
    assert _learnt(config, "ray", runner_resources={"cpu": 2}) == inline


def _kill_now_and_then(algorithm: Algorithm[Any], kills: int) -> None:
    chance, done = random.Random(7), 0
    while done < kills and algorithm.env_runners._runners:
        time.sleep(chance.uniform(0.2, 0.6))
        runners = algorithm.env_runners._runners
        pid = runners[chance.randrange(len(runners))].pid if runners else None
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            done += 1


@pytest.mark.parametrize("name", CONFIGS)
def test_killed_actors_change_nothing(name: str) -> None:
    config = CONFIGS[name]
    with config.with_runtime(engine="ray", max_restarts=100).build() as algorithm:
        algorithm.train()
        thread = threading.Thread(target=_kill_now_and_then, args=(algorithm, 3), daemon=True)
        thread.start()
        while algorithm.env_runners.health()["sampler/restarts"] < 3:
            algorithm.train()
        thread.join(60)
        iterations, disturbed = algorithm.iteration, weights_of(algorithm)
        health = algorithm.env_runners.health()
    assert health["sampler/discarded_steps"] == 0
    assert health["sampler/restored_steps"] > 0
    with config.with_runtime(engine="inline").build() as algorithm:
        for _ in range(iterations):
            algorithm.train()
        assert weights_of(algorithm) == disturbed


def test_runners_that_find_no_room_end_the_run_in_seconds() -> None:
    began = time.monotonic()
    with pytest.raises(ResourcesUnavailable, match=r"2 x 3 cpu \(spread\).*1 node with .*4 cpu"):
        CONFIGS["ppo"].with_runtime(engine="ray", runner_resources={"cpu": 3}).build()
    assert time.monotonic() - began < 20
