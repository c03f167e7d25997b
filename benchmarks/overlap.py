"""What does sampling during the updates save? Pairs of runs, with `env_runners.overlap` and not.

Runners in processes of their own (`--runners`); each step of the environment costs so many
milliseconds of its core (`--step-ms`), as a simulator's would, besides what it costs by itself. The
runs of a pair follow each other and change places in every other pair; the ratio is the median over
pairs. `sample` and `learn` are the shares of time spent waiting for rollouts and learning; without
the setting they tell the bound: 1 / max(sample, learn). Every process must have a core: on a
machine that is busy with other things the ratio says how busy it is.

    python benchmarks/overlap.py --algo sac --steps 1500
    python benchmarks/overlap.py --algo ppo --env HalfCheetah-v5 --step-ms 0 --steps 20480
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


def replaying(flags: argparse.Namespace, runners: int) -> dict[str, Any]:
    """Settings of what learns from a replay buffer."""
    return {
        "learning_starts": WARM_UP,
        "rollout_length": flags.rollout_length or 8,
        "batch_size": flags.batch,
        "updates_per_step": flags.updates_per_step,
        "env_runners": {"num": runners, "envs_per_runner": 1},
    }


def proximal(flags: argparse.Namespace, runners: int) -> dict[str, Any]:
    """Settings of PPO: 8 environments in all, as in `ppo_halfcheetah.py`."""
    return {
        "rollout_length": flags.rollout_length or 256,
        "minibatch_size": flags.batch,
        "num_epochs": flags.epochs,
        "env_runners": {"num": runners, "envs_per_runner": 8 // runners},
    }


ALGORITHMS = {
    "dqn": ("DQNConfig", "CartPole-v1", replaying),
    "sac": ("SACConfig", "Pendulum-v1", replaying),
    "td3": ("TD3Config", "Pendulum-v1", replaying),
    "ppo": ("PPOConfig", "HalfCheetah-v5", proximal),
}


def measure(overlap: bool, flags: argparse.Namespace) -> dict[str, float]:
    """Steps a second past the first ones, shares of waiting and learning, the driver's cost."""
    import rl

    name, env, settings_of = ALGORITHMS[flags.algo]
    runners = flags.runners if overlap else flags.runners_without or flags.runners
    settings = settings_of(flags, runners)
    warm_up = WARM_UP + 2 * settings["rollout_length"] * 8
    settings |= {
        "env": partial(make_costly, flags.env or env, flags.step_ms / 1000),
        "total_steps": warm_up + flags.steps,
        "hidden_sizes": (flags.hidden, flags.hidden),
        "metrics": {"interval": flags.steps},
        "runtime": {"engine": "process"},
    }
    config = getattr(rl, name)(**settings).with_env_runners(overlap=overlap)
    with config.build() as algorithm:
        while algorithm.env_steps < warm_up:
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
    parser.add_argument("--algo", choices=sorted(ALGORITHMS), default="sac")
    parser.add_argument("--env", help="by default CartPole-v1, Pendulum-v1 or HalfCheetah-v5")
    parser.add_argument("--runners", type=int, choices=(1, 2, 4, 8), default=1)
    parser.add_argument("--runners-without", type=int, help="by default as many", metavar="RUNNERS")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--step-ms", type=float, default=1.0)
    parser.add_argument("--rollout-length", type=int, help="by default 8, of ppo 256")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--updates-per-step", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=5)
    flags = parser.parse_args()
    pairs = []
    for number in range(flags.pairs):
        order = ("without", "with") if number % 2 == 0 else ("with", "without")
        pair: dict[str, Any] = {name: measure(name == "with", flags) for name in order}
        pair["ratio"] = pair["with"]["steps_per_second"] / pair["without"]["steps_per_second"]
        pairs.append(pair)
        print(json.dumps(pair), flush=True)
    ratio = statistics.median(pair["ratio"] for pair in pairs)
    print(json.dumps({"settings": vars(flags), "median_ratio": ratio}))


if __name__ == "__main__":
    main()
