"""Do the learning engines learn equally well? Seeds of each, and how likely chance alone is.

The engines' numbers differ in the last bits, so their runs part after some updates: what is
compared is what they learn. Of each run it is the mean return of 20 greedy episodes at the end, and
the mean of its last 100 training episodes. For each pair of engines p is that of the two-sided
rank-sum test (Mann & Whitney 1947; normal approximation with ties and continuity): the chance to
see ranks that differ so much where nothing does. Below 0.05 in one of many pairs proves nothing;
well below it does. That it is above proves no equality: so many seeds see large differences alone,
and the standard errors say how large. Of one seed all engines begin alike, and runs that have not
parted by the end are one run: `same` counts them, and only the others are evidence.

- `ppo`: CartPole-v1, 8 environments x 128, 4 epochs of minibatches of 256, 30 000 steps.
- `dqn`: CartPole-v1, an update every 4 steps, 20 000 steps.
- `sac`: Pendulum-v1, the preset, 5 000 steps.

    python benchmarks/engines.py --algo ppo
    python benchmarks/engines.py --algo dqn --engines compiled numpy --seeds 4 --save part.json
    python benchmarks/engines.py --algo dqn --engines torch --seeds 4 --add part.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _pairs import commit

import rl
from rl.configs.presets import find_preset

ENGINES = ("torch", "compiled", "numpy")
STEPS = {"ppo": 30_000, "dqn": 20_000, "sac": 5_000}
ENVIRONMENTS = {"ppo": "CartPole-v1", "dqn": "CartPole-v1", "sac": "Pendulum-v1"}
MEASURES = ("greedy", "training")
EPISODES = 20


def config_of(algo: str, engine: str, steps: int, seed: int) -> Any:
    """The run; the settings of DQN are those of `dqn_cartpole.py`."""
    if algo == "ppo":
        config: Any = rl.PPOConfig(
            env="CartPole-v1",
            seed=seed,
            total_steps=steps,
            rollout_length=128,
            num_epochs=4,
            minibatch_size=256,
        ).with_env_runners(envs_per_runner=8)
    elif algo == "sac":
        preset = find_preset("sac", ENVIRONMENTS["sac"]) | {"total_steps": steps}
        config = rl.SACConfig(**preset, seed=seed)
    else:
        config = rl.DQNConfig(
            env="CartPole-v1",
            seed=seed,
            total_steps=steps,
            learning_rate=1e-3,
            hidden_sizes=(64, 64),
            buffer_size=50_000,
            batch_size=64,
            learning_starts=1000,
            rollout_length=4,
            updates_per_step=0.25,
            target_update_interval=500,
            exploration_fraction=0.2,
            exploration_final=0.04,
        )
    return config.with_learners(engine=engine, threads=1)


def run(algo: str, engine: str, steps: int, seed: int) -> dict[str, float]:
    """Trains one; returns both measures."""
    began = time.perf_counter()
    with config_of(algo, engine, steps, seed).build() as algorithm:
        training = algorithm.learn().episode_return_mean
        greedy = algorithm.evaluate(EPISODES).mean
    told = {"greedy": greedy, "training": training, "seconds": time.perf_counter() - began}
    print(json.dumps({"engine": engine, "seed": seed, **told}), file=sys.stderr, flush=True)
    return told


def rank_sum(one: Sequence[float], other: Sequence[float]) -> float:
    """The two-sided p that two samples are of one distribution, by the ranks of their values.

    Normal approximation with the correction for ties; 1 where all values are the same.
    """
    n, m = len(one), len(other)
    # U counts the pairs in which the first is larger; equal ones count half.
    larger = sum((a > b) + 0.5 * (a == b) for a in one for b in other)
    size = n + m
    ties = sum(count**3 - count for count in Counter([*one, *other]).values())
    variance = n * m / 12 * (size + 1 - ties / (size * (size - 1)))
    if variance <= 0:
        return 1.0
    distance = max(abs(larger - n * m / 2) - 0.5, 0.0) / math.sqrt(variance)
    return math.erfc(distance / math.sqrt(2))


def same_runs(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """Seeds that came to the same in every measure; each holds its measures by seed."""
    both = one.keys() & other.keys()
    return sum(all(one[s][m] == other[s][m] for m in MEASURES) for s in both)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, its standard error and the values."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {
        "mean": round(statistics.mean(values), 1),
        "standard_error": round(error, 1),
        "all": [round(value, 1) for value in values],
    }


def main() -> None:
    """Prints one JSON line."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--algo", choices=list(STEPS), default="ppo")
    flags.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    flags.add_argument("--seeds", type=int, default=10)
    flags.add_argument("--first-seed", type=int, default=0)
    flags.add_argument("--steps", type=int, help="by default as above")
    flags.add_argument("--save", type=Path, metavar="FILE", help="keep the runs, too")
    flags.add_argument("--add", type=Path, nargs="+", default=[], metavar="FILE", help="kept ones")
    options = flags.parse_args()
    steps = options.steps or STEPS[options.algo]
    kept: dict[str, dict[str, Any]] = {}  # engine -> seed -> measures
    for path in options.add:
        for engine, runs in json.loads(path.read_text()).items():
            kept.setdefault(engine, {}).update(runs)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for engine in options.engines:  # in turn: the machine drifts
            kept.setdefault(engine, {})[str(seed)] = run(options.algo, engine, steps, seed)
    if options.save:
        options.save.write_text(json.dumps(kept))
    task = f"{options.algo} {ENVIRONMENTS[options.algo]}, {steps} steps"
    report: dict[str, Any] = {
        "question": f"{task}: what the engines learn",
        "commit": commit(),
        "seeds": {engine: len(runs) for engine, runs in kept.items()},
    }
    pairs = [*itertools.combinations(kept, 2)]
    report["same"] = {f"{a} / {b}": same_runs(kept[a], kept[b]) for a, b in pairs}
    for measure in MEASURES:
        of = {name: [each[measure] for each in runs.values()] for name, runs in kept.items()}
        report[measure] = {name: summary(values) for name, values in of.items()}
        report[f"{measure}, p"] = {f"{a} / {b}": round(rank_sum(of[a], of[b]), 3) for a, b in pairs}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
