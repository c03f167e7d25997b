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
from rl.configs.sac import SACConfig
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
    "sac": SACConfig(
        env="Pendulum-v1",
        rollout_length=8,
        learning_starts=128,
        batch_size=32,
        buffer_size=1000,
        total_steps=512,
        hidden_sizes=(32, 32),
    ),
}
CONFIGS = {
    name: config.with_env_runners(num=2, envs_per_runner=4) for name, config in SMALL.items()
}
for name in ("dqn", "ppo"):
    CONFIGS[f"{name} with overlap"] = CONFIGS[name].with_env_runners(overlap=True)


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


def _kill(algorithm: Algorithm[Any], index: int) -> None:
    """Kills a runner that answers, at a random moment of whatever it does then."""
    pid = None
    while pid is None:
        pid = algorithm.env_runners._runners[index].pid  # type: ignore[union-attr]
        time.sleep(0.01)
    time.sleep(random.Random(index).uniform(0.0, 0.3))
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_killed_actors_change_nothing(name: str) -> None:
    config, iterations = CONFIGS[name], 0
    with config.with_runtime(engine="ray", max_restarts=100).build() as algorithm:
        algorithm.train()
        for index in (0, 1):
            killing = threading.Thread(target=_kill, args=(algorithm, index))
            killing.start()
            deadline = time.monotonic() + 240
            while algorithm.env_runners.health()["sampler/restarts"] <= index:
                assert time.monotonic() < deadline
                algorithm.train()
            killing.join()
        iterations, disturbed = algorithm.iteration, weights_of(algorithm)
        health = algorithm.env_runners.health()
    assert health["sampler/restarts"] == 2
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
