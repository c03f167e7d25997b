"""Signals: the right exit code in time, a checkpoint that loads, no traceback, nobody left."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from rl.core.records.checkpoint_store import CheckpointStore
from tests.faults.runs import (
    Launcher,
    assert_loadable,
    assert_same_run,
    descendants,
    gone,
    kill,
    settings,
    write_config,
)

LONG = {"total_steps": 10**7, "checkpoints": {"interval": 0}, "evaluation": {"interval": 0}}


def _begun(launcher: Launcher, values: dict[str, Any], *arguments: str, rows: int = 3) -> int:
    """Starts a run and waits until it has logged some iterations."""
    config = write_config(launcher.directory / "config.yaml", values)
    pid = launcher.start("--config", config, "--run-dir", "run", *arguments)
    log = launcher.directory / "run" / "episodes.csv"
    deadline = time.monotonic() + 120
    while not log.exists() or len(log.read_text().splitlines()) < rows:
        assert time.monotonic() < deadline, launcher.said()
        time.sleep(0.01)
    return pid


def _until_slow(directory: Path) -> None:
    """Waits until an environment of both runners is in the step that takes so long."""
    deadline = time.monotonic() + 60
    while len(list(directory.glob("slow-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(1.5)  # the iteration before, whose learning may have gone on, is over


def _assert_ended_well(launcher: Launcher, below: list[int]) -> None:
    said = launcher.said()
    assert "Traceback" not in said, said
    assert "Exception ignored" not in said, said
    assert said.count("error:") <= 1, said
    assert gone(below), "a process is left"
    assert_loadable(launcher.directory / "run")


@pytest.mark.fault(
    "Ctrl-C, SIGTERM, SIGHUP",
    "the iteration ends, a checkpoint, code 130, 143, 129; resumed as if nothing had been",
)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_asked_to_end_a_run_checkpoints_and_goes_on_later_as_if_nothing_had_been(
    launcher: Launcher, number: int, code: int
) -> None:
    engine = "process" if number == signal.SIGTERM else "inline"
    values = settings("ppo", engine, checkpoints={"interval": 0}, total_steps=4096)
    pid = _begun(launcher, values)
    below = list(descendants(pid))
    began = time.monotonic()
    assert kill(pid, number)
    assert launcher.wait() == code
    assert time.monotonic() - began < 15
    _assert_ended_well(launcher, below)
    assert "continue with: train --resume run" in launcher.said()
    assert len(CheckpointStore(launcher.directory / "run" / "checkpoints").paths()) >= 1
    assert not (launcher.directory / "run" / "failure.json").exists()
    assert launcher.run("--resume", "run") == 0, launcher.said()
    assert launcher.run("--config", "config.yaml", "--run-dir", "whole") == 0
    assert_same_run(launcher.directory / "run", launcher.directory / "whole")


@pytest.mark.fault(
    "Ctrl-C twice",
    "ends within 2 s with code 130; earlier checkpoints stand, no process is left",
)
def test_a_second_ctrl_c_ends_at_once_with_what_was_saved_before(
    launcher: Launcher, tmp_path: Path
) -> None:
    (tmp_path / "slow_env.py").write_text(SLOW)
    values = settings("ppo", "process", **LONG) | {"env": "slow_env:Slow-v0"}
    pid = _begun(launcher, values, "--trust", "slow_env", rows=2)
    _until_slow(tmp_path)
    below = list(descendants(pid))
    assert kill(pid, signal.SIGINT)
    deadline = time.monotonic() + 30
    while "again: ends at once" not in launcher.said():
        assert time.monotonic() < deadline, launcher.said()
        time.sleep(0.01)
    began = time.monotonic()
    assert kill(pid, signal.SIGINT)
    assert launcher.wait() == 130
    assert time.monotonic() - began < 10, "a step takes a minute"
    _assert_ended_well(launcher, below)


SLOW = """
import os, pathlib, time
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Slow(CartPoleEnv):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps > 130:
            pathlib.Path(f"slow-{os.getpid()}-{id(self)}").touch()
            time.sleep(60.0)
        return super().step(action)


gymnasium.register("Slow-v0", Slow)
"""


@pytest.mark.fault(
    "SIGTERM while a runner hangs, with or without the GIL",
    "the iteration is given up, a checkpoint of the one before, code 143 within --grace",
)
@pytest.mark.parametrize(
    ("algo", "holds"),
    [
        ("ppo", "time.sleep(1e6)"),
        ("ppo", "ctypes.PyDLL(None).sleep(1000000)"),
        ("dqn", "time.sleep(1e6)"),  # a fragment ahead
    ],
)
def test_sigterm_is_obeyed_in_time_even_when_a_runner_hangs(
    launcher: Launcher, tmp_path: Path, algo: str, holds: str
) -> None:
    (tmp_path / "hanging_env.py").write_text(
        SLOW.replace("time.sleep(60.0)", holds)
        .replace("Slow", "Hanging")
        .replace("import os", "import ctypes, os")
    )
    values = settings(algo, "process", **LONG) | {"env": "hanging_env:Hanging-v0"}
    values["env_runners"]["overlap"] = algo == "dqn"
    pid = _begun(launcher, values, "--trust", "hanging_env", "--grace", "4", rows=2)
    _until_slow(tmp_path)
    below = list(descendants(pid))
    began = time.monotonic()
    assert kill(pid, signal.SIGTERM)
    assert launcher.wait() == 143, launcher.said()
    assert time.monotonic() - began < 4 + 6, "without --grace it would never end"
    _assert_ended_well(launcher, below)
    newest, skipped = CheckpointStore(tmp_path / "run" / "checkpoints").newest_valid()
    assert skipped == []
    length = int(values["rollout_length"])
    assert newest.meta["env_steps"] == 4 * length * (130 // length)


@pytest.mark.fault(
    "SIGUSR1",
    "a checkpoint, and the run goes on",
)
def test_sigusr1_leaves_a_checkpoint_and_the_run_goes_on(launcher: Launcher) -> None:
    values = settings("ppo", "inline", checkpoints={"interval": 0, "keep": 99}, total_steps=4096)
    pid = _begun(launcher, values)
    assert kill(pid, signal.SIGUSR1)
    assert launcher.wait() == 0
    steps = [
        int(path.name.removeprefix("step_"))
        for path in CheckpointStore(launcher.directory / "run" / "checkpoints").paths()
    ]
    assert any(step % 512 for step in steps), "evaluations alone leave those of the best"
    assert steps[-1] == 4096


def _goes_on_with(run: Path) -> tuple[str, ...]:
    return ("--resume", "run") if (run / "config.yaml").exists() else BEGIN


def _times_begun(run: Path) -> int:
    log = run / "train.log"
    return log.read_text().count("steps -> ") if log.exists() else 0


def _ctrl_c_at(launcher: Launcher, moment: float, gap: float | None) -> None:
    """Ctrl-C so many seconds after the start, or if negative, after training has begun."""
    run = launcher.directory / "run"
    before = _times_begun(run)
    pid = launcher.start(*_goes_on_with(run))
    while moment < 0 and _times_begun(run) == before and Path(f"/proc/{pid}").exists():
        time.sleep(0.01)
    time.sleep(abs(moment))
    below = list(descendants(pid))
    there = kill(pid, signal.SIGINT)
    if gap is not None:
        time.sleep(gap)
        there = kill(pid, signal.SIGINT) or there
    began = time.monotonic()
    code = launcher.wait(20)
    finished = code == 2 and "has taken its" in launcher.said()
    assert code in ((130, 0) if there else (0,)) or finished, launcher.said()
    assert time.monotonic() - began < (2 if gap is not None else 15)
    _assert_ended_well(launcher, below)
    if code == 0:
        assert (run / "result.json").exists()


BEGIN = ("--config", "config.yaml", "--run-dir", "run")


@pytest.mark.fault(
    "Ctrl-C at any moment, once and twice",
    "right code in time, checkpoints load, no traceback, no process left, exact resume",
)
@pytest.mark.parametrize(
    ("moments", "engine"),
    [
        (2, "process"),
        pytest.param(25, "inline", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
        pytest.param(25, "process", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_ctrl_c_at_any_moment_once_and_twice(launcher: Launcher, moments: int, engine: str) -> None:
    total = 2048 if moments == 2 else 8192
    values = settings("ppo", engine, total_steps=total, checkpoints={"interval": 512})
    write_config(launcher.directory / "config.yaml", values)
    run, chance = launcher.directory / "run", random.Random(moments)
    for number in range(moments):
        # Every other one from the first instruction of ours on, the others while it trains.
        share = number / moments
        moment = 0.02 + share if number % 2 == 0 else -share
        for gap in (None, chance.uniform(0.0, 0.2)):
            _ctrl_c_at(launcher, moment, gap)
    if not (run / "result.json").exists():
        assert launcher.run(*_goes_on_with(run)) == 0, launcher.said()
    assert launcher.run("--config", "config.yaml", "--run-dir", "whole") == 0
    assert_same_run(run, launcher.directory / "whole")


@pytest.mark.fault(
    "standard output is closed (train | head)",
    "the run goes on, train.log has every line",
)
def test_a_reader_that_goes_away_does_not_end_the_run(launcher: Launcher, tmp_path: Path) -> None:
    values = settings("ppo", "inline")
    write_config(tmp_path / "config.yaml", values)
    (tmp_path / "stdout").unlink(missing_ok=True)
    assert launcher.run(*BEGIN, broken_pipe=True) == 0, launcher.said()
    assert (tmp_path / "run" / "result.json").exists()
    assert "Traceback" not in launcher.said()
