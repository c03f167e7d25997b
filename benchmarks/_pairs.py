"""Runs two programs in turn and compares what they say of themselves, pair by pair.

Machines drift; the ratio of two runs next to each other does not. Each program prints one JSON
object as its last line. A peer lives in an environment of its own: --peer-python names its Python.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
PEERS = Path(os.environ.get("RL_PEERS") or CACHE / "rl-platform" / "peers")
"""Where `make_peers.py` makes the peers' environments."""


def python_of(peer: str, directory: Path) -> Path:
    """The Python of a peer's environment."""
    return directory / peer / "bin" / "python"


def parser(description: str) -> argparse.ArgumentParser:
    """The flags all comparisons share."""
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("--pairs", type=int, default=5, help="how often each is run")
    flags.add_argument("--steps", type=int, default=100_000, help="environment steps of one run")
    flags.add_argument("--threads", type=int, default=1, help="of each side's updates")
    flags.add_argument("--peer-python", default=os.environ.get("PEER_PYTHON", ""), metavar="PATH")
    flags.add_argument("--run", default="", help=argparse.SUPPRESS)
    flags.add_argument("--seed", type=int, default=1)
    return flags


def commit() -> str:
    """The commit measured, `+` when files differ from it; unknown outside of a checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        head, dirty = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+" if dirty.strip() else "")


def learn(algorithm: Any) -> dict[str, Any]:
    """Trains an algorithm of this package; says how fast, set-up not counted, and its return."""
    import rl

    began = time.perf_counter()
    result = algorithm.learn()
    seconds = time.perf_counter() - began
    return _report(result.env_steps, seconds, result.episode_return_mean, rl.__version__)


def learn_sb3(model: Any, steps: int) -> dict[str, Any]:
    """Trains a model of Stable-Baselines3 for so many steps; says the same of it."""
    import stable_baselines3

    began = time.perf_counter()
    model.learn(steps)
    seconds = time.perf_counter() - began
    recent = [episode["r"] for episode in model.ep_info_buffer]
    mean = sum(recent) / len(recent) if recent else math.nan
    return _report(model.num_timesteps, seconds, mean, stable_baselines3.__version__)


def _report(steps: int, seconds: float, mean: float, version: str) -> dict[str, Any]:
    return {"steps_per_second": steps / seconds, "return": mean, "version": version}


def run_once(
    python: str, script: Path, which: str, seed: int, arguments: Sequence[str], threads: int = 1
) -> Any:
    """Runs one side; returns the object its last line holds."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [python, str(script), "--run", which, "--seed", str(seed), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{which} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(
    question: str,
    script: Path,
    flags: argparse.Namespace,
    *,
    peer: str,
    own: Sequence[str] = (),
) -> None:
    """Prints one JSON line: medians, spreads and the ratio ours / peer, with the returns.

    `own` are flags of this benchmark alone, handed to both sides.
    """
    sides: dict[str, list[Any]] = {"ours": [], peer: []}
    pythons = {"ours": sys.executable, peer: flags.peer_python}
    threads = flags.threads
    arguments = ["--steps", str(flags.steps), "--threads", str(threads), *own]
    for pair in range(flags.pairs):
        for which, found in sides.items():
            if pythons[which]:
                seed = flags.seed + pair
                found.append(run_once(pythons[which], script, which, seed, arguments, threads))
                print(json.dumps({"pair": pair, "side": which, **found[-1]}), file=sys.stderr)
    report: dict[str, Any] = {
        "question": question,
        "threads": threads,
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "pairs": flags.pairs,
    }
    for which, found in sides.items():
        if found:
            speeds = [entry["steps_per_second"] for entry in found]
            report[which] = {
                "steps_per_second": round(statistics.median(speeds)),
                "range": [round(min(speeds)), round(max(speeds))],
                "returns": [_told(entry["return"]) for entry in found],
                "version": found[0]["version"],
            }
        else:
            report[which] = "absent: give --peer-python the Python of an environment that has it"
    if all(sides.values()):
        ratios = [
            mine["steps_per_second"] / theirs["steps_per_second"]
            for mine, theirs in zip(*sides.values(), strict=True)
        ]
        report["ratio"] = round(statistics.median(ratios), 2)
        report["ratio_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
    print(json.dumps(report))


def _told(mean: float) -> float | None:
    """A mean return; None, for which JSON has a word, where no episode has ended."""
    return round(mean, 1) if math.isfinite(mean) else None
