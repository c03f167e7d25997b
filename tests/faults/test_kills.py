"""A run is a function of its config, whoever is killed on the way."""

import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from rl.algorithms.registry import load_config
from rl.core.records.checkpoint_store import CheckpointStore
from tests.faults.runs import (
    SMALL,
    Launcher,
    assert_same_run,
    forget_the_end,
    kill,
    settings,
    write_config,
)


def _undisturbed(launcher: Launcher, values: dict[str, Any]) -> tuple[Path, float]:
    """The run, and how many seconds it took."""
    config = write_config(launcher.directory / "config.yaml", values)
    began = time.monotonic()
    assert launcher.run("--config", config, "--run-dir", "whole") == 0, launcher.said()
    return launcher.directory / "whole", time.monotonic() - began


def _kill_and_resume(launcher: Launcher, name: str, kills: int, moments: random.Random) -> int:
    """Starts a run; kills its driver at most so often, and resumes it to its end.

    Returns how often it was killed.
    """
    run, done = launcher.directory / name, 0
    while True:
        begun = (run / "config.yaml").exists()
        pid = launcher.start(
            *(("--resume", name) if begun else ("--config", "config.yaml", "--run-dir", name))
        )
        if done < kills:
            time.sleep(moments.uniform(0.0, 1.0))
            kill(pid)
        status = launcher.wait()
        # Killed behind its last word, a run has nothing left to do, and says so.
        if status == 0 or (status == 2 and "has taken its" in launcher.said()):
            return done
        assert status == -9, launcher.said()
        done += 1


def _survives_kills_of_its_driver(
    launcher: Launcher, values: dict[str, Any], kills: int, share: float
) -> None:
    whole, seconds = _undisturbed(launcher, values)

    class Moments(random.Random):
        """Up to a share of the time that the whole run took, however slow the machine is."""

        def uniform(self, a: float, b: float) -> float:
            return super().uniform(a, b) * share * seconds

    moments, done, runs = Moments(3), 0, 0
    while done < kills:
        done += _kill_and_resume(launcher, f"killed-{runs}", kills - done, moments)
        assert_same_run(launcher.directory / f"killed-{runs}", whole)
        runs += 1


@pytest.mark.fault(
    "the driver is killed (SIGKILL) at random moments, each time resumed",
    "weights, optimizer, replay, generators, tables and curves as if it had never been",
)
@pytest.mark.parametrize(
    ("algo", "engine", "overlap"),
    [
        ("ppo", "inline", False),
        ("dqn", "process", False),
        ("sac", "process", True),
        ("ppo", "process", True),
    ],
)
def test_a_driver_killed_a_few_times_and_resumed(
    launcher: Launcher, algo: str, engine: str, overlap: bool
) -> None:
    values = settings(algo, engine)
    values["env_runners"]["overlap"] = overlap
    _survives_kills_of_its_driver(launcher, values, 3, 0.9)


@pytest.mark.fault(
    "the same 20 times, every algorithm, inline and process",
    "as above",
)
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["inline", "process"])
@pytest.mark.parametrize("algo", sorted(SMALL))
def test_a_driver_killed_20_times_and_resumed(launcher: Launcher, algo: str, engine: str) -> None:
    values = settings(algo, engine, total_steps=4096)
    _survives_kills_of_its_driver(launcher, values, 20, 0.7)


@pytest.mark.fault(
    "a run that was killed is resumed on the other engine (--runtime.engine)",
    "weights, tables and curves as if nothing had been; config.yaml names the new engine",
)
@pytest.mark.parametrize(
    ("algo", "engine", "other"), [("ppo", "inline", "process"), ("dqn", "process", "inline")]
)
def test_a_run_goes_on_on_another_engine(
    launcher: Launcher, tmp_path: Path, algo: str, engine: str, other: str
) -> None:
    whole, _ = _undisturbed(
        launcher, settings(algo, engine, checkpoints={"interval": 256, "keep": 20})
    )
    run = tmp_path / "moved"
    shutil.copytree(whole, run, symlinks=True)
    forget_the_end(run, 512)
    assert launcher.run("--resume", "moved", "--runtime.engine", other) == 0, launcher.said()
    assert_same_run(run, whole)
    assert load_config(run / "config.yaml").runtime.engine == other
    newest, _ = CheckpointStore(run / "checkpoints").newest_valid()
    assert f"engine: {other}" in newest.text("config.yaml")
