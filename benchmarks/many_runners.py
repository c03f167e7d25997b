"""How much throughput is lost when 64 logical runners share two cores, in place of two runners?

As many steps are sampled of each environment between two publications of weights; nothing is
learnt. The ways to place them:

- `two`: 2 runners, each in a process, with as many environments in all as the 64 have. Then a
  policy acts on 32 times as many observations at once, which is cheaper by itself.
- `narrow`: 2 runners, each with as many environments as each of the 64 has.
- `hosted`: 64 runners in 2 processes (`env_runners.min 1`, `env_runners.max 2`).
- `apart`: 64 runners, a process for each, as `env_runners.num 64` alone has it.

    python benchmarks/many_runners.py
    python benchmarks/many_runners.py --env HalfCheetah-v5 --each 1 --steps 20000
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

MANY, FEW = 64, 2


def speed(env: str, length: int, steps: int, **placed: int) -> float:
    """Environment steps per second of sampling so many; start-up is not counted."""
    config = PPOConfig(
        env=env, rollout_length=length, total_steps=10**9, minibatch_size=64
    ).with_env_runners(**placed)  # type: ignore[arg-type]
    fragment = length * placed["num"] * placed["envs_per_runner"]
    rounds = max(1, steps // fragment)
    with PPO(config.with_runtime(engine="process")) as ppo:
        ppo.sample(length)  # processes and environments are there
        began = time.perf_counter()
        for _ in range(rounds):
            ppo.publish_weights()
            ppo.sample(length)
        return rounds * fragment / (time.perf_counter() - began)


def main() -> None:
    """Prints one JSON line: medians, and the ratios to two runners within each turn."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--env", default="CartPole-v1")
    flags.add_argument("--each", type=int, default=8, help="environments of each of the 64")
    flags.add_argument("--length", type=int, default=128, help="steps of each in a round")
    flags.add_argument("--steps", type=int, default=200_000, help="of all environments")
    flags.add_argument("--pairs", type=int, default=5)
    flags.add_argument("--without-apart", action="store_true", help="leave out 64 processes")
    options = flags.parse_args()
    each, size = options.each, (options.env, options.length, options.steps)
    ways: dict[str, dict[str, int]] = {
        "two": {"num": FEW, "envs_per_runner": MANY // FEW * each},
        "narrow": {"num": FEW, "envs_per_runner": each},
        "hosted": {"num": MANY, "envs_per_runner": each, "min": 1, "max": FEW},
        "apart": {"num": MANY, "envs_per_runner": each},
    }
    if options.without_apart:
        del ways["apart"]
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.pairs):
        for way, placed in ways.items():
            found[way].append(speed(*size, **placed))
    report: dict[str, Any] = {
        "question": f"64 runners x {each} beside 2, {options.env}, sampling",
        "commit": commit(),
        "cores": os.cpu_count(),
        "length": options.length,
        "steps_per_second": {way: round(statistics.median(all_)) for way, all_ in found.items()},
    }
    for way in list(ways)[2:]:
        for few in ("two", "narrow"):
            ratios = [many / two for many, two in zip(found[way], found[few], strict=True)]
            report[f"{way} / {few}"] = round(statistics.median(ratios), 2)
            report[f"{way} / {few}, range"] = [round(min(ratios), 2), round(max(ratios), 2)]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
