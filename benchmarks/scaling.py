"""What do 10, 100 and 1000 runners cost the driver, if environments cost nothing?

    python benchmarks/scaling.py [--engine process] [--runners 10 100 1000] [--seconds 5]

One JSON object a line. Each logical runner has its own request, weights reference, rollout and
state, as in a run; a few processes host them all (`env_runners.max`), so that one machine can stand
for many. Processor time of the driver is what counts: it does not depend on who else computes here.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import gymnasium
import numpy as np
from _pairs import commit

from rl.algorithms.ppo import PPO, PPOConfig

OBSERVATIONS = 8


class NoOp(gymnasium.Env[Any, Any]):
    """Does nothing, in 200 steps."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (OBSERVATIONS,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self.at = 0
        self.nothing = np.zeros(OBSERVATIONS, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Begins."""
        self.at = 0
        return self.nothing, {}

    def step(self, action: Any) -> Any:
        """Counts."""
        self.at += 1
        return self.nothing, 0.0, False, self.at == 200, {}


def row(engine: str, runners: int, processes: int, seconds: float) -> dict[str, Any]:
    """Costs of one round: a fragment from every runner, and new weights for all."""
    length, width = 32, 2
    config = PPOConfig(
        env=NoOp,
        total_steps=10**9,
        rollout_length=length,
        minibatch_size=64,
        num_epochs=1,
        env_runners={"num": runners, "envs_per_runner": width, "min": 1, "max": processes},
        runtime={"engine": engine},
    )
    with PPO(config) as ppo:
        rollouts = ppo.sample(length)
        rounds, began, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds or rounds < 2:
            ppo.publish_weights()
            rollouts = ppo.sample(length)
            rounds += 1
        wall = (time.perf_counter() - began) / rounds
        driver = (time.process_time() - cpu) / rounds
        began = time.process_time()
        ppo.learn_from(rollouts)
        learning = time.process_time() - began
        weights = ppo.learners.get_weights(again=True).parameters.nbytes
        size = sum(array.nbytes for array in _arrays(rollouts[0]))
    return {
        "runners": runners,
        "processes": processes,
        "fragment_steps": length * width,
        "fragment_bytes": size,
        "weights_bytes": weights,
        "round_s": round(wall, 4),
        "driver_cpu_per_fragment_us": round(1e6 * driver / runners, 1),
        "fragments_per_second_of_driver": round(runners / driver),
        "learner_cpu_per_step_us": round(1e6 * learning / (runners * length * width), 2),
    }


def _arrays(rollout: Any) -> list[Any]:
    found = [rollout.observations, rollout.actions, rollout.rewards, rollout.terminated]
    return [*found, rollout.truncated, *rollout.extras.values()]


def main() -> None:
    """Prints one JSON line for each number of runners."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--engine", default="process", choices=["process", "ray"])
    flags.add_argument("--runners", type=int, nargs="+", default=[10, 100, 1000])
    flags.add_argument("--processes", type=int, default=2)
    flags.add_argument("--seconds", type=float, default=5.0)
    options = flags.parse_args()
    head = {"engine": options.engine, "commit": commit(), "cores": os.cpu_count()}
    for runners in options.runners:
        processes = min(options.processes, runners)
        print(json.dumps(head | row(options.engine, runners, processes, options.seconds)))


if __name__ == "__main__":
    main()
