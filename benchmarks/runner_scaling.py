"""How much faster do two runner processes sample than one?

By default each step costs 1 ms of processor time and nothing else. With `--env` it is a real
environment; then what two bare Python processes gain over one is measured in the same pair: each
steps one such environment with random actions, without this package. That is what the machine's
cores have to give, which may be less than two where they share caches or are halves of one core.

    python benchmarks/runner_scaling.py
    python benchmarks/runner_scaling.py --env HalfCheetah-v5 --steps 2000
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from _pairs import commit

from rl.algorithms.ppo import PPO, PPOConfig
from rl.testing.probe_envs import MatchObservation

ENVIRONMENTS = 4
"""Of each runner."""
BARE = """
import sys, time, gymnasium
env, steps = gymnasium.make(sys.argv[1]), int(sys.argv[2])
env.action_space.seed(0)
env.reset(seed=0)
actions = [env.action_space.sample() for _ in range(256)]

def play(steps):
    for at in range(steps):
        _, _, terminated, truncated, _ = env.step(actions[at % 256])
        if terminated or truncated:
            env.reset()

play(500)
print("ready", flush=True)
sys.stdin.readline()
began = time.perf_counter()
play(steps)
print(steps / (time.perf_counter() - began))
"""


class Busy(MatchObservation):
    """Computes for 1 ms in every step."""

    def step(self, action: Any) -> Any:
        """Burns processor time, then steps."""
        until = time.thread_time() + 1e-3
        while time.thread_time() < until:
            pass
        return super().step(action)


def speed(env: str, runners: int, steps: int) -> float:
    """Environment steps per second of sampling, without learning; start-up is not counted."""
    config = PPOConfig(
        env=env or Busy, rollout_length=steps, total_steps=10**9, minibatch_size=ENVIRONMENTS
    ).with_env_runners(num=runners, envs_per_runner=ENVIRONMENTS)
    with PPO(config.with_runtime(engine="process")) as ppo:
        ppo.sample(8)
        began = time.perf_counter()
        ppo.sample(steps)
        return runners * ENVIRONMENTS * steps / (time.perf_counter() - began)


def bare(env: str, processes: int, steps: int) -> float:
    """Steps per second of so many processes together, each of which steps as often."""
    command = [sys.executable, "-c", BARE, env, str(steps)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started: list[Any] = [subprocess.Popen(command, **pipes) for _ in range(processes)]  # type: ignore[call-overload]
    for process in started:
        process.stdout.readline()
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in started)


def summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians of one and two, and of their ratio."""
    ratios = [two / one for one, two in pairs]
    return {
        "one": round(statistics.median(one for one, _ in pairs)),
        "two": round(statistics.median(two for _, two in pairs)),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def main() -> None:
    """Prints one JSON line with the ratios."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--env", default="", help="by default one of 1 ms a step")
    flags.add_argument("--pairs", type=int, default=5)
    flags.add_argument("--steps", type=int, default=250, help="of each environment")
    options = flags.parse_args()
    env, steps = options.env, options.steps
    pairs, bounds = [], []
    for _ in range(options.pairs):
        pairs.append((speed(env, 1, steps), speed(env, 2, steps)))
        if env:
            total = ENVIRONMENTS * steps
            bounds.append((bare(env, 1, total), bare(env, 2, total)))
    report = {
        "question": f"1 -> 2 runner processes, {env or '1 ms a step'}",
        "commit": commit(),
        "cores": os.cpu_count(),
        **summary(pairs),
    }
    if bounds:
        report["bare processes"] = summary(bounds)
        shares = [(two / one) / (b / a) for (one, two), (a, b) in zip(pairs, bounds, strict=True)]
        report["ratio, runners / bare"] = round(statistics.median(shares), 2)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
