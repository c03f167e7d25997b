"""How much faster do two runner processes sample than one, if a step costs 1 ms of processor time?

python benchmarks/runner_scaling.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

from _pairs import commit

from rl.algorithms.ppo import PPO, PPOConfig
from rl.testing.probe_envs import MatchObservation


class Busy(MatchObservation):
    """Computes for 1 ms in every step."""

    def step(self, action: Any) -> Any:
        """Burns processor time, then steps."""
        until = time.thread_time() + 1e-3
        while time.thread_time() < until:
            pass
        return super().step(action)


def speed(runners: int, steps: int) -> float:
    """Environment steps per second of sampling, without learning; start-up is not counted."""
    config = PPOConfig(env=Busy, rollout_length=steps, total_steps=10**9).with_env_runners(
        num=runners, envs_per_runner=4
    )
    with PPO(config.with_runtime(engine="process")) as ppo:
        ppo.sample(8)
        began = time.perf_counter()
        ppo.sample(steps)
        return runners * 4 * steps / (time.perf_counter() - began)


def main() -> None:
    """Prints one JSON line with the ratio pair by pair."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--pairs", type=int, default=5)
    flags.add_argument("--steps", type=int, default=250, help="of each environment")
    options = flags.parse_args()
    pairs = [(speed(1, options.steps), speed(2, options.steps)) for _ in range(options.pairs)]
    ratios = [two / one for one, two in pairs]
    report = {
        "question": "1 -> 2 runner processes, 1 ms a step",
        "commit": commit(),
        "cores": os.cpu_count(),
        "one": round(statistics.median(one for one, _ in pairs)),
        "two": round(statistics.median(two for _, two in pairs)),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
