"""Machines with little to give: one core, no home, no shared memory, few files, little memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.runs import Launcher, assert_same_run, settings, write_config

BEGIN = ("--config", "config.yaml", "--run-dir", "run")

POOR: dict[str, dict[str, Any]] = {
    "one core": {"cores": [min(os.sched_getaffinity(0))]},
    "a home that cannot be written": {"environ": {"HOME": "/proc/1", "XDG_CACHE_HOME": "/proc/1"}},
    "no home": {"environ": {"HOME": "", "XDG_RUNTIME_DIR": "/nowhere"}},
    "a tiny /dev/shm": {"small_shm": True},
    "128 open files": {"limits": {"RLIMIT_NOFILE": 128}},
}


@pytest.mark.fault(
    "one core, a read-only home or none, a /dev/shm of a page, 128 open files",
    "nothing: exit 0, no warning, same weights",
)
@pytest.mark.parametrize("lack", list(POOR))
def test_a_poor_machine_is_enough(launcher: Launcher, tmp_path: Path, lack: str) -> None:
    short = {"total_steps": 512, "evaluation": {"interval": 0, "num_episodes": 1}}
    write_config(tmp_path / "config.yaml", settings("ppo", "process", **short))
    code = launcher.run(*BEGIN, **POOR[lack])
    if code == 77:
        pytest.skip("mounting is not allowed here")
    assert code == 0, launcher.said()
    assert "warning" not in launcher.said()
    write_config(tmp_path / "whole.yaml", settings("ppo", "inline", **short))
    assert launcher.run("--config", "whole.yaml", "--run-dir", "whole") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.fault(
    "fewer open files than worker processes need (ulimit -n)",
    "code 4, and how to raise the limit or do without; never a hang",
)
@pytest.mark.parametrize("files", [14, 24])
def test_too_few_open_files_are_told(launcher: Launcher, tmp_path: Path, files: int) -> None:
    write_config(tmp_path / "config.yaml", settings("ppo", "process", total_steps=512))
    code = launcher.run(*BEGIN, limits={"RLIMIT_NOFILE": files})
    assert code == 4, launcher.said()
    assert "open files" in launcher.said()
    assert "Traceback" not in launcher.said()
    failure = tmp_path / "run" / "failure.json"
    if files > 20:  # with fewer there is none left to write it
        assert json.loads(failure.read_text())["exit_code"] == 4


LEAKING = """
import os
import resource
from pathlib import Path

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

DRIVER = Path({driver!r})
MEBIBYTE = 1 << 20
limited = False


class Leaking(CartPoleEnv):
    # Keeps 40 MiB of every step, where this process may have 400 more than it had at first.

    def __init__(self):
        super().__init__()
        self.kept = []
        if not DRIVER.exists():  # the first is made there, to look at
            DRIVER.write_text(str(os.getpid()))

    def step(self, action):
        global limited
        if DRIVER.read_text() == str(os.getpid()):
            return super().step(action)  # an evaluation
        if not limited:
            limited = True
            with open("/proc/self/statm") as file:
                now = int(file.read().split()[0]) * resource.getpagesize()
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (now + 400 * MEBIBYTE, hard))
        self.kept.append(bytearray(40 * MEBIBYTE))
        return super().step(action)


gymnasium.register("Leaking-v0", Leaking)
"""


@pytest.mark.fault(
    "an environment leaks memory until it gets no more (MemoryError)",
    "it is made anew, which frees what it held; a warning; exit 0",
)
def test_an_environment_that_leaks_is_made_anew(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "leaking.py").write_text(LEAKING.format(driver=str(tmp_path / "driver")))
    values = settings("ppo", "process", total_steps=256, evaluation={"num_episodes": 1})
    runners = {"num": 1, "envs_per_runner": 1, "max_env_failures": 1000}
    write_config(
        tmp_path / "config.yaml", values | {"env": "leaking:Leaking-v0", "env_runners": runners}
    )
    assert launcher.run(*BEGIN, "--trust", "leaking") == 0, launcher.said()
    assert launcher.said().count("raised MemoryError") >= 5
