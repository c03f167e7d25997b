"""Whole runs of `train` for tests of faults: started, disturbed, compared."""

from __future__ import annotations

import csv
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from rl.algorithms.registry import algorithm_names
from rl.core.records.checkpoint import read_checkpoint
from rl.core.records.checkpoint_store import CheckpointStore
from rl.core.records.event_file import event_files

ROOT = Path(__file__).parents[2]
CLOCKS = ("time/fps", "time/time_elapsed", "seconds")

_SMALL: Mapping[str, Mapping[str, Any]] = {
    "ppo": {
        "rollout_length": 32,
        "minibatch_size": 32,
        "num_epochs": 2,
        "normalize_rewards": True,
        "learning_rate_final": 0.0,
    },
    "dqn": {
        "rollout_length": 16,
        "buffer_size": 400,
        "learning_starts": 128,
        "batch_size": 16,
        "n_step": 3,
        "prioritized": True,
    },
    "sac": {
        "env": "Pendulum-v1",
        "rollout_length": 16,
        "buffer_size": 400,
        "learning_starts": 128,
        "batch_size": 16,
        "updates_per_step": 0.25,
        "normalize_rewards": True,
        "metrics": {"interval": 100},
    },
    "td3": {
        "env": "Pendulum-v1",
        "rollout_length": 16,
        "buffer_size": 400,
        "learning_starts": 128,
        "batch_size": 16,
        "updates_per_step": 0.25,
    },
}
"""Settings that make a run of each algorithm small and let it use what it has."""
SMALL = {algo: _SMALL[algo] for algo in algorithm_names()}


def settings(algo: str, engine: str, **other: Any) -> dict[str, Any]:
    """A run of about a second that logs, evaluates and checkpoints often."""
    return {
        "algo": algo,
        "env": "CartPole-v1",
        "seed": 5,
        "total_steps": 1536,
        "hidden_sizes": [16],
        "normalize_observations": True,
        **SMALL[algo],
        "env_runners": {"num": 2, "envs_per_runner": 2},
        "runtime": {"engine": engine, "max_restarts": 1000},
        "evaluation": {"interval": 512, "num_episodes": 2},
        "checkpoints": {"interval": 256},
        **other,
    }


def write_config(path: Path, values: Mapping[str, Any]) -> str:
    """Writes settings as JSON, which YAML is a superset of."""
    path.write_text(json.dumps(values))
    return str(path)


class Launcher:
    """Starts `train` in a directory, one at a time."""

    def __init__(self) -> None:
        self.directory = Path()
        self._running: int | None = None
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("launcher.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            text=True,
        )
        self._answer(240.0)  # it has imported everything

    def start(
        self,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
        skew: float = 0.0,
        broken_pipe: bool = False,
        cores: Sequence[int] = (),
        small_shm: bool = False,
    ) -> int:
        """Starts `train ...`; its words go to the files `stdout` and `stderr`. Returns its pid."""
        for name in ("stdout", "stderr"):
            (self.directory / name).unlink(missing_ok=True)
        order = {
            "arguments": arguments,
            "directory": str(self.directory),
            "environ": dict(environ or {}),
            "limits": dict(limits or {}),
            "skew": skew,
            "broken_pipe": broken_pipe,
            "cores": list(cores),
            "small_shm": small_shm,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pid: int = self._answer(120.0)["pid"]
        self._running = pid
        return pid

    def wait(self, seconds: float = 120.0) -> int:
        """Waits for its end; returns the exit code, a signal's number negative."""
        status: int = self._answer(seconds)["status"]
        self._running = None
        return status

    def run(self, *arguments: str, **how: Any) -> int:
        """Runs `train ...` to its end and returns the exit code."""
        self.start(*arguments, **how)
        return self.wait()

    def _answer(self, seconds: float) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], seconds)
        assert ready, f"no end within {seconds} s: {self.said()}"
        answer: dict[str, Any] = json.loads(stdout.readline())
        return answer

    def end_run(self) -> None:
        """Kills the run that goes on, if one does."""
        if self._running is not None:
            kill(self._running)
            self.wait()

    def said(self) -> str:
        """What the last run wrote to both its streams."""
        paths = [self.directory / name for name in ("stdout", "stderr")]
        return "".join(path.read_text() for path in paths if path.exists())

    def close(self) -> None:
        """Ends the launcher, and a run that still goes on."""
        self._process.kill()
        self._process.communicate()


def scalars(run: Path) -> list[tuple[str, int, float]]:
    """Every point in every event file, in the order they were written; clocks left out."""
    points = []
    for path in event_files(run):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars" and is_a_function(value.tag):
                    number = value.tensor.float_val[0]
                    points.append((value.tag, event.step, float(number)))
    return points


def is_a_function(name: str) -> bool:
    """Whether a metric is a function of the config; those of clocks and restarts are not."""
    return name not in CLOCKS and not name.startswith(("perf/", "sampler/"))


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a table without what depends on clocks and restarts."""
    rows = csv.DictReader(path.read_text().splitlines())
    return [{k: v for k, v in row.items() if is_a_function(k)} for row in rows]


def arrays_of(run: Path) -> dict[str, bytes]:
    """Every array and the policy of the last checkpoint, to the bit."""
    newest, skipped = CheckpointStore(run / "checkpoints").newest_valid()
    assert skipped == []
    return {
        f"{name}:{key}": array.tobytes()
        for name in newest.files
        if name.endswith(".safetensors")
        for key, array in newest.arrays(name).items()
    }


def assert_same_run(run: Path, whole: Path) -> None:
    """Asserts that a run that was disturbed left what the undisturbed one left."""
    ours, theirs = arrays_of(run), arrays_of(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert (run / "policy" / "weights.safetensors").read_bytes() == (
        whole / "policy" / "weights.safetensors"
    ).read_bytes()
    for name in ("progress.csv", "episodes.csv"):
        assert table(run / name) == table(whole / name), name
    np.testing.assert_equal(scalars(run), scalars(whole))
    ends = [json.loads((path / "result.json").read_text()) for path in (run, whole)]
    assert ends[0]["env_steps"] == ends[1]["env_steps"]
    assert ends[0]["evaluation"] == ends[1]["evaluation"]
    best = [(path / "checkpoints" / "best").resolve().name for path in (run, whole)]
    assert best[0].split("-")[0] == best[1]


def forget_the_end(run: Path, step: int) -> None:
    """Leaves of a whole run what a kill after the checkpoint of `step` had left."""
    shutil.rmtree(run / "policy")
    (run / "result.json").unlink()
    store = CheckpointStore(run / "checkpoints")
    taken = [int(path.name.split("_")[1].split("-")[0]) for path in store.paths()]
    assert step in taken
    for path, steps in zip(store.paths(), taken, strict=True):
        if steps > step:
            shutil.rmtree(path)
    (run / "checkpoints" / "latest").unlink()


def assert_loadable(run: Path) -> None:
    """Asserts that every checkpoint a run lists is whole."""
    store = CheckpointStore(run / "checkpoints")
    for path in store.paths():
        read_checkpoint(path)
    if store.paths():
        assert store.latest is not None


def descendants(pid: int) -> Iterator[int]:
    """The processes below one, children first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield int(child)
        yield from descendants(int(child))


def workers(pid: int) -> list[int]:
    """Those below a driver that are runners: the leaves of its tree."""
    return [child for child in descendants(pid) if not list(descendants(child))]


def gone(pids: list[int], seconds: float = 5.0) -> bool:
    """Whether all of the processes end within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(_alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Sends a signal; False when nobody is there any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
