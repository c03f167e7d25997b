"""What do 10, 100 and 1000 runners cost the driver, if environments cost nothing? And learners?

    python benchmarks/scaling.py [--engine process] [--runners 10 100 1000] [--seconds 5]
    python benchmarks/scaling.py --runners --learners 2 4 8

One JSON object a line. Each logical runner has its own request, weights reference, rollout and
state, as in a run with a process for each; a few processes host them all (`env_runners.max`), so
that one machine can stand for many. Processor time of the driver is what counts: it does not depend
on who else computes here. Of learners it is the processor time that each spends on one sum of the
gradients of all.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from _pairs import commit

from rl.algorithms.ppo import PPO, PPOConfig
from rl.core.learning.ranks import ProcessRanks
from rl.core.runtime import Runtime
from rl.env_runners import elastic

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
    elastic.LARGEST_ANSWER = 0  # a request for each, as where each has a process of its own
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


class Rank:
    """Takes part in sums as a learner does."""

    def meet(self, rank: int, size: int, meeting: str) -> None:
        """Waits for the others."""
        self.ranks = ProcessRanks(rank, size, torch.device("cpu"), Path(meeting), 120.0)

    def sum(self, floats: int, times: int) -> float:
        """Seconds of processor time for one sum of so many numbers, all threads together."""
        values = torch.zeros(floats)
        self.ranks.sum_(values)
        began = time.process_time()
        for _ in range(times):
            self.ranks.sum_(values)
        return (time.process_time() - began) / times


def sums(size: int) -> Iterator[dict[str, Any]]:
    """Costs of agreeing on gradients, of two 64-unit networks and of a large one."""
    with Runtime("process") as runtime, tempfile.TemporaryDirectory() as meeting:
        ranks = [runtime.spawn(Rank, preload=("torch",)) for _ in range(size)]
        file = str(Path(meeting) / "ranks")
        runtime.get([rank.call(Rank.meet, at, size, file) for at, rank in enumerate(ranks)])
        for floats, times in ((9_155, 400), (2_500_000, 10)):
            began = time.perf_counter()
            spent = runtime.get([rank.call(Rank.sum, floats, times) for rank in ranks])
            wall = (time.perf_counter() - began) / (times + 1)
            yield {
                "learners": size,
                "gradient_bytes": 4 * floats,
                "sent_by_each_bytes": round(2 * 4 * floats * (size - 1) / size),
                "cpu_per_sum_us": round(1e6 * sum(spent) / size),
                "wall_per_sum_us": round(1e6 * wall),
            }


def main() -> None:
    """Prints one JSON line for each number of runners."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--engine", default="process", choices=["process", "ray"])
    flags.add_argument("--runners", type=int, nargs="*", default=[10, 100, 1000])
    flags.add_argument("--learners", type=int, nargs="*", default=[])
    flags.add_argument("--processes", type=int, default=2)
    flags.add_argument("--seconds", type=float, default=5.0)
    options = flags.parse_args()
    head = {"engine": options.engine, "commit": commit(), "cores": os.cpu_count()}
    for runners in options.runners:
        processes = min(options.processes, runners)
        print(json.dumps(head | row(options.engine, runners, processes, options.seconds)))
    for learners in options.learners:
        for found in sums(learners):
            print(json.dumps(head | {"engine": "process"} | found))


if __name__ == "__main__":
    main()
