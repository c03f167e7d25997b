"""How long until the return is reached, from the start of the process on?

Ours is the command `train` with the preset of the environment, a fresh process: imports, start-up,
TensorBoard and files are in it. The clock stops when `episodes.csv` of the run shows that the mean
of the last training episodes is there. The peer is Stable-Baselines3 with the settings of
rl-baselines3-zoo, without its imports, without any logging; a callback stops its clock.

- `ppo`: CartPole-v1, a mean of 475 over 100 episodes.
- `sac`: Pendulum-v1, a mean of -200 over 20 episodes; learning rate 1e-3 on both sides.

    python benchmarks/time_to_return.py --algo ppo --peer-python PATH/bin/python
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import _pairs

TASKS = {"ppo": ("CartPole-v1", 475.0, 100), "sac": ("Pendulum-v1", -200.0, 20)}
"""Environment, mean return, episodes it is of."""
BUDGETS = {"ppo": 100_000, "sac": 20_000}
"""Environment steps after which it is given up; learning rates of `ppo` fall to 0 by then."""
POLL_S = 0.02


def reached(returns: Iterable[float], mean: float, episodes: int) -> int | None:
    """After how many episodes the mean of the last ones is there; None: never."""
    last: deque[float] = deque(maxlen=episodes)
    for count, each in enumerate(returns, 1):
        last.append(each)
        if len(last) == episodes and sum(last) / episodes >= mean:
            return count
    return None


def ours(algo: str, seed: int) -> dict[str, Any]:
    """Starts `train`, and reads what it writes."""
    env, mean, episodes = TASKS[algo]
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        command = [sys.executable, "-m", "rl", "train", "--algo", algo, "--env", env]
        command += ["--run-dir", str(run), "--seed", str(seed)]
        command += ["--total-steps", str(BUDGETS[algo])]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            rows: list[dict[str, str]] = []
            count = None
            while count is None and process.poll() is None:
                time.sleep(POLL_S)
                rows = _rows(run / "episodes.csv")
                count = reached((float(row["return"]) for row in rows), mean, episodes)
            seconds = time.perf_counter() - began
            if process.poll() is None:
                process.terminate()
            elif process.returncode:
                raise SystemExit(f"train failed with exit code {process.returncode}")
        rows = _rows(run / "episodes.csv")
        count = reached((float(row["return"]) for row in rows), mean, episodes)
        if count is None:
            return {"seconds": None, "env_steps": None}
        return {"seconds": seconds, "env_steps": int(rows[count - 1]["env_step"])}


def _rows(path: Path) -> list[dict[str, str]]:
    """Whole rows of a file that grows, or none yet."""
    if not path.exists():
        return []
    text = path.read_text()
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def sb3(algo: str, seed: int) -> dict[str, Any]:
    """Trains with Stable-Baselines3 until a callback says that it is enough."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    env, mean, episodes = TASKS[algo]

    class Watch(BaseCallback):
        """Ends the run when the mean is there."""

        seconds: float | None = None

        def _on_step(self) -> bool:
            if not self.locals["dones"].any():
                return True
            returns = [episode["r"] for episode in self.model.ep_info_buffer]
            if reached(returns, mean, episodes) is None:
                return True
            self.seconds = time.perf_counter() - began
            return False

    torch.set_num_threads(1)
    began = time.perf_counter()
    shared = {"seed": seed, "device": "cpu", "stats_window_size": episodes}
    if algo == "ppo":
        model: Any = stable_baselines3.PPO(
            "MlpPolicy",
            make_vec_env(env, 8, seed=seed),
            n_steps=32,
            batch_size=256,
            gae_lambda=0.8,
            gamma=0.98,
            n_epochs=20,
            ent_coef=0.0,
            learning_rate=lambda left: 0.001 * left,
            clip_range=lambda left: 0.2 * left,
            **shared,
        )
    else:
        model = stable_baselines3.SAC(
            "MlpPolicy", make_vec_env(env, 1, seed=seed), learning_rate=1e-3, **shared
        )
    watch = Watch()
    model.learn(BUDGETS[algo], callback=watch)
    steps = None if watch.seconds is None else model.num_timesteps
    return {"seconds": watch.seconds, "env_steps": steps}


def told(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the runs that got there, and how many did."""
    there = [each for each in found if each["seconds"] is not None]
    report: dict[str, Any] = {"reached": f"{len(there)} of {len(found)}"}
    for key, digits in (("seconds", 2), ("env_steps", None)):
        values = [each[key] for each in there]
        if values:
            report[key] = round(statistics.median(values), digits)
            report[f"{key}, all"] = [round(value, digits) for value in values]
    return report


def main() -> None:
    """Compares, seed by seed, or runs one side when asked to by the comparison."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--algo", choices=list(TASKS), default="ppo")
    flags.add_argument("--pairs", type=int, default=5, help="seeds")
    flags.add_argument("--seed", type=int, default=1, help="the first")
    flags.add_argument("--peer-python", default=os.environ.get("PEER_PYTHON", ""), metavar="PATH")
    flags.add_argument("--steps", type=int, help="given up after so many, to see that it works")
    flags.add_argument("--run", default="", help=argparse.SUPPRESS)
    options = flags.parse_args()
    algo = options.algo
    BUDGETS[algo] = options.steps or BUDGETS[algo]
    if options.run:
        print(json.dumps({"ours": ours, "sb3": sb3}[options.run](algo, options.seed)))
        return
    sides: dict[str, list[dict[str, Any]]] = {"ours": [], "sb3": []}
    pythons = {"ours": sys.executable, "sb3": options.peer_python}
    arguments = ["--algo", algo, "--steps", str(BUDGETS[algo])]
    for seed in range(options.seed, options.seed + options.pairs):
        for which, found in sides.items():
            if pythons[which]:
                script = Path(__file__)
                found.append(_pairs.run_once(pythons[which], script, which, seed, arguments))
                print(json.dumps({"seed": seed, "side": which, **found[-1]}), file=sys.stderr)
    env, mean, episodes = TASKS[algo]
    report: dict[str, Any] = {
        "question": f"{algo} {env}, seconds to a mean of {mean:g} over {episodes} episodes",
        "commit": _pairs.commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "budget": BUDGETS[algo],
        "ours": told(sides["ours"]),
        "sb3": told(sides["sb3"])
        if sides["sb3"]
        else "absent: give --peer-python the Python of an environment that has it",
    }
    both = [
        mine["seconds"] / theirs["seconds"]
        for mine, theirs in zip(sides["ours"], sides["sb3"], strict=False)
        if mine["seconds"] and theirs["seconds"]
    ]
    if both:
        report["seconds, ours / sb3"] = round(statistics.median(both), 2)
        report["seconds, ours / sb3, range"] = [round(min(both), 2), round(max(both), 2)]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
