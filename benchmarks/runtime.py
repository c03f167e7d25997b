"""What does a call between processes cost, beside Ray Core, pipes, process pools and a bare copy?

    python benchmarks/runtime.py [--rounds 5] [--seconds 0.5] [--only process zmq memcpy]

One JSON object a line. All candidates take turns in each round, so that a busy moment of the
machine hits all of them; a line gives the median over rounds and their range. Ray and zmq come with
`pip install -e ".[ray,bench]"`; a candidate that is not installed is reported as absent. `zmq` and
`memcpy` are floors: nothing that uses them is faster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _calls import CANDIDATES, Candidate, Target, timed

from rl.core.runtime import Runtime

IDLE_WORKERS = 16


def once(measure: Callable[[], float], seconds: float) -> float:
    """The median of goes within `seconds`, of at least three."""
    goes: list[float] = []
    end = time.perf_counter() + seconds
    while len(goes) < 3 or time.perf_counter() < end:
        goes.append(measure())
    return statistics.median(goes)


def idle_memory() -> float:
    """MB of private memory of one of many idle workers, the average."""
    with Runtime("process") as runtime:
        actors = [runtime.spawn(Target, preload=()) for _ in range(IDLE_WORKERS)]
        runtime.get([actor.call(Target.nothing) for actor in actors])
        private = 0
        for actor in actors:
            for line in Path(f"/proc/{actor.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Private_"):
                    private += int(line.split()[1])
        return private / 1024 / IDLE_WORKERS


def scaling(steps: int = 200) -> float:
    """Steps per second of two actors over those of one, a millisecond of processor time a step."""
    with Runtime("process") as runtime:
        actors = [runtime.spawn(Target) for _ in range(2)]
        runtime.get([actor.call(Target.step, 10) for actor in actors])
        ratios = []
        for _ in range(5):
            one = timed(lambda: actors[0].call(Target.step, steps).result())
            two = timed(lambda: runtime.get([a.call(Target.step, steps) for a in actors]))
            ratios.append(2 * one / two)
        return statistics.median(ratios)


def emit(**row: Any) -> None:
    """One line of output."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def made(names: list[str]) -> Iterator[Candidate]:
    """The candidates that are installed; the others are reported."""
    for kind in CANDIDATES:
        if names and kind.name not in names:
            continue
        try:
            yield kind()
        except ImportError as error:
            emit(who=kind.name, absent=str(error))


def main() -> None:
    """Measures everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="a measure takes in a round")
    parser.add_argument("--only", nargs="*", default=[], help="names of candidates")
    options = parser.parse_args()
    emit(python=platform.python_version(), machine=platform.machine(), cpus=os.cpu_count())
    results: dict[tuple[str, str], list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        candidates = []
        for candidate in made(options.only):
            stack.callback(candidate.close)
            candidates.append(candidate)
        measures = dict.fromkeys(name for candidate in candidates for name in candidate.measures)
        for _ in range(options.rounds):
            for measure in measures:
                for candidate in candidates:
                    if measure in candidate.measures:
                        seconds = once(candidate.measures[measure], options.seconds)
                        results[measure, candidate.name].append(seconds)
    for (measure, who), values in results.items():
        row = {
            "median_us": statistics.median(values),
            "min_us": min(values),
            "max_us": max(values),
        }
        figures = {name: round(1e6 * seconds, 2) for name, seconds in row.items()}
        if measure == "pipelined":
            figures["calls_per_s"] = round(1 / statistics.median(values))
        if measure.endswith("MB"):
            size = int(measure.rpartition("_")[2].removesuffix("MB")) * 2**20
            figures["gb_per_s"] = round(size / statistics.median(values) / 1e9, 2)
        emit(what=measure, who=who, **figures)
    if not options.only or "process" in options.only:
        emit(what="idle_worker_private_mb", who="process", mb=round(idle_memory(), 1))
        emit(what="two_actors_over_one", who="process", times=round(scaling(), 2))


if __name__ == "__main__":
    main()
