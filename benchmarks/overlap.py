"""What does sampling during the updates save? Pairs of runs, with `env_runners.overlap` and not.

One runner in a process of its own; each step of the environment costs so many milliseconds of its
core (`--step-ms`), as a simulator's would. The runs of a pair follow each other; the ratio is the
median over pairs. `sample` and `learn` are the shares of time spent waiting for rollouts and
learning; without the setting they tell the bound: 1 / max(sample, learn). Both processes must have
a core: on a machine that is busy with other things the ratio says how busy it is.

    python benchmarks/overlap.py --algo sac --steps 1500
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

WARM_UP = 200


def make_costly(env: str, seconds: float) -> Any:
    """The environment, each step of which takes so many seconds of processor time."""
    import gymnasium

    class Costly(gymnasium.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            until = time.thread_time() + seconds
            while time.thread_time() < until:
                pass
            return super().step(action)

    return Costly(gymnasium.make(env))


def measure(algo: str, overlap: bool, flags: argparse.Namespace) -> dict[str, float]:
    """Steps a second past the random ones, shares of waiting and learning, the driver's cost."""
    import rl

    name = {"sac": "Pendulum-v1", "td3": "Pendulum-v1", "dqn": "CartPole-v1"}[algo]
    settings: dict[str, Any] = {
        "env": partial(make_costly, name, flags.step_ms / 1000),
        "total_steps": WARM_UP + flags.steps,
        "learning_starts": WARM_UP,
        "rollout_length": flags.rollout_length,
        "batch_size": flags.batch,
        "hidden_sizes": (flags.hidden, flags.hidden),
        "updates_per_step": flags.updates_per_step,
        "metrics": {"interval": flags.steps},
        "env_runners": {"num": 1, "envs_per_runner": 1, "overlap": overlap},
        "runtime": {"engine": "process"},
    }
    config = {"sac": rl.SACConfig, "td3": rl.TD3Config, "dqn": rl.DQNConfig}[algo](**settings)
    with config.build() as algorithm:
        while algorithm.env_steps < WARM_UP + 2 * flags.rollout_length:
            algorithm.train()
        before, used = algorithm.env_steps, time.process_time()
        metrics = algorithm.learn().metrics
        used = (time.process_time() - used) / (algorithm.env_steps - before)
    told = {"steps_per_second": "time/fps", "sample": "perf/sample_share"}
    shares = {word: metrics[key] for word, key in (told | {"learn": "perf/learn_share"}).items()}
    return shares | {"driver_cpu_ms_per_step": 1000 * used}


def main() -> None:
    """Runs the pairs and prints them, with the median ratio, as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algo", choices=("dqn", "sac", "td3"), default="sac")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--step-ms", type=float, default=1.0)
    parser.add_argument("--rollout-length", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--updates-per-step", type=float, default=1.0)
    parser.add_argument("--pairs", type=int, default=5)
    flags = parser.parse_args()
    pairs = []
    for _ in range(flags.pairs):
        pair = {name: measure(flags.algo, name == "with", flags) for name in ("without", "with")}
        pair["ratio"] = pair["with"]["steps_per_second"] / pair["without"]["steps_per_second"]
        pairs.append(pair)
        print(json.dumps(pair), flush=True)
    ratio = statistics.median(pair["ratio"] for pair in pairs)
    print(json.dumps({"settings": vars(flags), "median_ratio": ratio}))


if __name__ == "__main__":
    main()
