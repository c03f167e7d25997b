"""Runs every comparison, one after the other, and writes what each says to a file of JSON lines.

A line tells comparison, commit, machine and time besides. One that fails is told and noted, the
others go on, and the exit code is 1 in the end. `make bench` calls this; the peers' environments
come from `make peers`. Nothing else should compute meanwhile. All take an hour or two; `--quick`
goes through them in minutes, to see that they work: its figures mean nothing.

    python benchmarks/run_all.py [--only NAME ...] [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _pairs import PEERS, ROOT, commit, python_of

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Comparison:
    """A file of this directory with arguments."""

    name: str
    file: str
    arguments: str = ""
    quick: str = ""
    """Arguments besides, of a run that is only to see that it works."""
    peer: str = ""
    """Of which it needs an environment: sb3 or rllib."""


COMPARISONS = (
    Comparison("ppo_cartpole_wide", "ppo_cartpole.py", "", "--pairs 1 --steps 8192", "sb3"),
    Comparison(
        "ppo_cartpole_sb3",
        "ppo_cartpole.py",
        "--settings sb3 --steps 60000",
        "--pairs 1 --steps 4096",
        "sb3",
    ),
    Comparison("ppo_native", "ppo_native.py", "", "--pairs 1 --steps 8192", "sb3"),
    Comparison(
        "ppo_native_2_threads",
        "ppo_native.py",
        "--threads 2",
        "--pairs 1 --steps 8192",
        "sb3",
    ),
    Comparison(
        "ppo_native_pipeline",
        "ppo_native.py",
        "--pipeline",
        "--pipeline --pairs 1 --steps 8192",
        "sb3",
    ),
    Comparison("ppo_halfcheetah", "ppo_halfcheetah.py", "", "--pairs 1 --steps 4096", "sb3"),
    Comparison(
        "ppo_pong", "ppo_pong.py", "--pairs 5 --steps 20000", "--pairs 1 --steps 2048", "sb3"
    ),
    Comparison(
        "ppo_pong_pipeline",
        "ppo_pong.py",
        "--pipeline --pairs 5 --steps 20000",
        "--pipeline --pairs 1 --steps 2048",
        "sb3",
    ),
    Comparison("dqn_cartpole_every_4", "dqn_cartpole.py", "", "--pairs 1 --steps 3000", "sb3"),
    Comparison(
        "dqn_cartpole_every_1",
        "dqn_cartpole.py",
        "--every 1 --steps 25000",
        "--pairs 1 --steps 2000",
        "sb3",
    ),
    Comparison("sac_pendulum", "sac.py", "--steps 6000", "--pairs 1 --steps 1100", "sb3"),
    Comparison(
        "sac_pendulum_2_threads",
        "sac.py",
        "--steps 6000 --threads 2",
        "--pairs 1 --steps 1100",
        "sb3",
    ),
    Comparison(
        "sac_halfcheetah",
        "sac.py",
        "--steps 6000 --env HalfCheetah-v5",
        "--pairs 1 --steps 1100",
        "sb3",
    ),
    Comparison(
        "sac_halfcheetah_2_threads",
        "sac.py",
        "--steps 6000 --env HalfCheetah-v5 --threads 2",
        "--pairs 1 --steps 1100",
        "sb3",
    ),
    Comparison("sac_floor", "sac_floor.py", "", "--blocks 3 --updates 2"),
    Comparison(
        "ray_overhead",
        "ray_overhead.py",
        "--pairs 5 --steps 30000",
        "--pairs 1 --steps 4096",
        "rllib",
    ),
    Comparison("runner_scaling", "runner_scaling.py", "", "--pairs 1 --steps 50"),
    Comparison(
        "runner_scaling_halfcheetah",
        "runner_scaling.py",
        "--env HalfCheetah-v5 --steps 2000",
        "--pairs 1 --steps 50",
    ),
    Comparison("many_runners", "many_runners.py", "", "--pairs 1 --each 1 --steps 8192"),
    Comparison(
        "many_runners_halfcheetah",
        "many_runners.py",
        "--env HalfCheetah-v5 --each 1 --steps 20000",
        "--pairs 1 --steps 8192",
    ),
    Comparison("time_to_return_ppo", "time_to_return.py", "", "--pairs 1 --steps 4096", "sb3"),
    Comparison(
        "time_to_return_sac",
        "time_to_return.py",
        "--algo sac",
        "--pairs 1 --steps 600",
        "sb3",
    ),
    Comparison("engines_ppo", "engines.py", "--algo ppo", "--seeds 1 --steps 2048"),
    Comparison("engines_dqn", "engines.py", "--algo dqn", "--seeds 1 --steps 1200"),
    Comparison("engines_sac", "engines.py", "--algo sac", "--seeds 1 --steps 300"),
    Comparison("overlap", "overlap.py", "--algo sac", "--pairs 1 --steps 200"),
    Comparison(
        "overlap_ppo",
        "overlap.py",
        "--algo ppo --step-ms 0 --steps 40960 --runners 2",
        "--pairs 1 --steps 4096",
    ),
    Comparison("scaling", "scaling.py", "--runners 10 100 1000", "--runners 10 --seconds 0.5"),
    Comparison("scaling_learners", "scaling.py", "--runners --learners 2 4", "--learners 2"),
    Comparison("replay", "replay.py", "--frames 200000", "--frames 2000"),
    Comparison(
        "runtime", "runtime.py", "--seconds 0.2", "--rounds 1 --seconds 0.02 --only process"
    ),
)


def machine() -> str:
    """What the figures depend on most."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def without_nan(value: Any) -> Any:
    """The value with null where a number is none: JSON has no word for it."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run(command: Sequence[str], timeout: float) -> tuple[list[dict[str, Any]], str]:
    """The objects a command prints, a line each, and why it failed; empty where it did not.

    All its processes are ended with it, also by Ctrl-C.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return [], f"took more than {timeout:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever it left
    if process.returncode:
        return [], f"exit code {process.returncode}"
    try:
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    except ValueError as error:
        return [], f"printed what is no JSON: {error}"
    return lines, "" if lines else "printed no result"


def command_of(comparison: Comparison, peers: Mapping[str, str], *, quick: bool) -> list[str]:
    """What is run."""
    arguments = [*comparison.arguments.split(), *(comparison.quick.split() if quick else [])]
    if peers.get(comparison.peer):
        arguments += ["--peer-python", peers[comparison.peer]]
    return [sys.executable, str(HERE / comparison.file), *arguments]


def run_all(
    chosen: Sequence[Comparison],
    peers: Mapping[str, str],
    out: Path,
    *,
    quick: bool = False,
    timeout: float = TIMEOUT_S,
) -> list[str]:
    """Runs them and appends their lines to a file; returns the names of those that failed."""
    failed = []
    out.parent.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"commit": commit(), "machine": machine(), "quick": quick}
    for at, comparison in enumerate(chosen):
        print(f"{at + 1}/{len(chosen)} {comparison.name}", file=sys.stderr, flush=True)
        began = time.perf_counter()
        lines, problem = run(command_of(comparison, peers, quick=quick), timeout)
        if problem:
            print(f"error: {comparison.name}: {problem}", file=sys.stderr, flush=True)
            failed.append(comparison.name)
            lines = [{"failed": problem}]
        told = {
            "comparison": comparison.name,
            **about,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds_in_all": round(time.perf_counter() - began, 1),
        }
        with out.open("a", encoding="utf-8") as file:
            for line in lines:
                text = json.dumps(without_nan({**line, **told}), allow_nan=False)
                file.write(text + "\n")
                print(text, flush=True)
    return failed


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags; ends with code 2 where they cannot be."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [comparison.name for comparison in COMPARISONS]
    flags.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    flags.add_argument("--list", action="store_true", help="name them")
    flags.add_argument("--quick", action="store_true", help="see that they work; no figures")
    flags.add_argument("--out", type=Path, help="(default: a new file in benchmarks/results)")
    flags.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds, of each")
    flags.add_argument("--without-peers", action="store_true", help="measure ours alone")
    for peer, variable in (("sb3", "PEER_PYTHON"), ("rllib", "RLLIB_PYTHON")):
        default = os.environ.get(variable) or str(python_of(peer, PEERS))
        flags.add_argument(
            f"--{peer}-python", default=default, metavar="PATH", help=f"or {variable}"
        )
    options = flags.parse_args(arguments)
    options.chosen = [each for each in COMPARISONS if each.name in options.only]
    options.peers = {"sb3": options.sb3_python, "rllib": options.rllib_python}
    if options.without_peers:
        options.peers = {}
        return options
    if not Path(options.rllib_python).exists():
        del options.peers["rllib"]  # optional: its side is told as absent
    needed = any(each.peer == "sb3" for each in options.chosen)
    if needed and not options.list and not Path(options.sb3_python).exists():
        flags.error(
            f"{options.sb3_python} is not there: make it with `make peers`, name a Python that has"
            " Stable-Baselines3 by PEER_PYTHON, or measure ours alone, --without-peers"
        )
    return options


def main() -> int:
    """Runs the command; returns the exit code."""
    options = options_of()
    if options.list:
        for each in COMPARISONS:
            print(f"{each.name:<22} {each.file} {each.arguments}".rstrip())
        return 0
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{commit()}.jsonl"
    out = options.out or HERE / "results" / name
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by an exception: what runs is ended
    try:
        failed = run_all(
            options.chosen, options.peers, out, quick=options.quick, timeout=options.timeout
        )
    except KeyboardInterrupt:
        print(f"error: stopped; what there is lies in {out}", file=sys.stderr)
        return 130
    print(f"-> {out}", file=sys.stderr)
    if failed:
        print(f"error: {len(failed)} failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    if not options.quick:
        print(f"compare with the reference: python benchmarks/guard.py {out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
