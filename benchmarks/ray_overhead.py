"""What does Ray cost beside worker processes, for PPO on CartPole with two runners?

    python benchmarks/ray_overhead.py [--pairs 3] [--steps 60000] [--peer-python WITH_RLLIB]

One JSON object a line: steps per second, and processor time for each, on `process` and on `ray` in
turn, and beside RLlib with the same hyperparameters; then the time until 100 MB of weights that
were put once have been read by four runners. Ray starts before the clock does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _pairs import commit, parser, run_once

SETTINGS: dict[str, Any] = {
    "env": "CartPole-v1",
    "total_steps": 10**9,
    "rollout_length": 128,
    "minibatch_size": 256,
    "num_epochs": 4,
    "learning_rate": 3e-4,
    "entropy_coef": 0.01,
    "max_grad_norm": 0.5,
    "env_runners": {"num": 2, "envs_per_runner": 4},
}
STORE = 600 * 2**20


def measured(train: Any, env_steps: Any, steps: int) -> dict[str, Any]:
    """Environment steps per second of whole iterations, after three to warm up; and their cost.

    The cost is processor time, of all processes: it depends less on who else computes here.
    """
    for _ in range(3):
        train()
    before, spent, began = env_steps(), processor_seconds(), time.perf_counter()
    while env_steps() - before < steps:
        train()
    taken, taken_cpu = time.perf_counter() - began, processor_seconds() - spent
    done = env_steps() - before
    return {"steps_per_second": done / taken, "cpu_us_per_step": 1e6 * taken_cpu / done}


def processor_seconds() -> float:
    """That this process and all below it have spent."""
    parents, spent = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            pid = int(file.parent.name)
            parents[pid], spent[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sum(spent[pid] for pid in found) / os.sysconf("SC_CLK_TCK")


def ours(engine: str, steps: int, seed: int) -> dict[str, Any]:
    """One run of PPO on an engine."""
    from rl.algorithms.ppo import PPO, PPOConfig

    with PPO(PPOConfig(**SETTINGS, seed=seed, runtime={"engine": engine})) as ppo:
        found = measured(ppo.train, lambda: ppo.env_steps, steps)
        return {**found, "return": ppo.window.return_mean}


def rllib(steps: int, seed: int) -> dict[str, Any]:
    """One run of RLlib's PPO; in a Python that has it."""
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig as Peer
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    start_ray(ray)
    config = (
        Peer()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=2, num_envs_per_env_runner=4, rollout_fragment_length=128)
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=False
            )
        )
        .training(
            train_batch_size_per_learner=1024,
            minibatch_size=256,
            num_epochs=4,
            lr=3e-4,
            gamma=0.99,
            lambda_=0.95,
            clip_param=0.2,
            vf_clip_param=1e5,
            vf_loss_coeff=0.5,
            entropy_coeff=0.01,
            grad_clip=0.5,
            use_kl_loss=False,
        )
        .debugging(seed=seed, log_level="ERROR")
    )
    algorithm = config.build_algo()
    last: dict[str, Any] = {}

    def train() -> None:
        last.update(algorithm.train())

    def env_steps() -> float:
        return float(last["env_runners"]["num_env_steps_sampled_lifetime"])

    found = measured(train, env_steps, steps)
    mean = last["env_runners"].get("episode_return_mean", float("nan"))
    return {**found, "return": mean, "version": ray.__version__}


def start_ray(ray: Any) -> None:
    """A small Ray of this machine."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "300000")  # the machine may be busy
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=STORE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


class Reader:
    """Reads an array as a runner reads weights."""

    def read(self, array: npt.NDArray[np.float32]) -> float:
        """One pass over it."""
        return float(array.sum())


def broadcast(rounds: int) -> dict[str, Any]:
    """Seconds from `put` until four actors have read 100 MB."""
    from rl.core.runtime import Runtime

    weights = np.ones(100 * 2**20 // 4, np.float32)
    taken, copied = [], []
    with Runtime("ray") as runtime:
        readers = [runtime.spawn(Reader) for _ in range(4)]
        runtime.get([reader.call(Reader.read, weights[:10]) for reader in readers])
        for _ in range(rounds):
            began = time.perf_counter()
            put = runtime.put(weights)
            copied.append(time.perf_counter() - began)
            runtime.get([reader.call(Reader.read, put.as_argument()) for reader in readers])
            taken.append(time.perf_counter() - began)
            del put
    return {
        "question": "100 MB of weights to 4 runners here: seconds until all have read them",
        "seconds": round(statistics.median(taken), 3),
        "range": [round(min(taken), 3), round(max(taken), 3)],
        "of_which_put": round(statistics.median(copied), 3),
    }


def one(side: str, options: argparse.Namespace, seed: int) -> Any:
    """One run."""
    if side != "rllib":
        return ours(side, options.steps, seed)
    arguments = ["--steps", str(options.steps // 4)]
    return run_once(options.peer_python, Path(__file__), side, seed, arguments)


def report(sides: dict[str, list[Any]]) -> None:
    """Prints medians, and the ratios within pairs with their range."""
    told: dict[str, Any] = {
        "question": "PPO CartPole-v1, 2 runners x 4 environments: steps per second",
        "commit": commit(),
        "cores": os.cpu_count(),
    }
    for side, found in sides.items():
        told[side] = {
            name: round(statistics.median([run[name] for run in found]))
            for name in ("steps_per_second", "cpu_us_per_step")
            if found
        } or "absent: give --peer-python"
    for name, over, under, of in (
        ("speed, ray / process", "ray", "process", "steps_per_second"),
        ("speed, ray / rllib", "ray", "rllib", "steps_per_second"),
        ("processor time, ray / process", "ray", "process", "cpu_us_per_step"),
        ("processor time, rllib / ray", "rllib", "ray", "cpu_us_per_step"),
    ):
        ratios = [a[of] / b[of] for a, b in zip(sides[over], sides[under], strict=False)]
        if ratios:
            told[name] = round(statistics.median(ratios), 2)
            told[f"{name}, range"] = [round(min(ratios), 2), round(max(ratios), 2)]
    print(json.dumps(told))


def main() -> None:
    """Prints one JSON line for each question."""
    flags = parser(__doc__ or "")
    flags.set_defaults(pairs=3, steps=60_000)
    options = flags.parse_args()
    if options.run == "rllib":
        print(json.dumps(rllib(options.steps, options.seed)))
        return
    try:
        import ray
    except ImportError:
        print(json.dumps({"question": __doc__, "ray": "absent: pip install -e '.[ray]'"}))
        return
    start_ray(ray)
    sides: dict[str, list[Any]] = {"process": [], "ray": [], "rllib": []}
    for pair in range(options.pairs):
        for side, found in sides.items():
            if side == "rllib" and not options.peer_python:
                continue
            found.append(one(side, options, options.seed + pair))
            print(json.dumps({"pair": pair, "side": side, **found[-1]}), file=sys.stderr)
    report(sides)
    print(json.dumps(broadcast(rounds=5)))
    ray.shutdown()


if __name__ == "__main__":
    main()
