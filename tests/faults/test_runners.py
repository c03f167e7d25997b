"""Runners that are killed, and environments that do what environments should not."""

from __future__ import annotations

import csv
import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from rl.core.records.checkpoint import read_checkpoint
from rl.core.records.checkpoint_store import CheckpointStore
from tests.faults.runs import (
    Launcher,
    assert_same_run,
    descendants,
    forget_the_end,
    gone,
    kill,
    settings,
    write_config,
)

BEGIN = ("--config", "config.yaml", "--run-dir", "run")


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _runners(driver: int) -> list[int]:
    """The workers: what the launcher below the driver has started."""
    children = Path(f"/proc/{driver}/task/{driver}/children")
    try:
        below = [int(pid) for pid in children.read_text().split()]
    except OSError:
        return []
    return [pid for launcher in below for pid in descendants(launcher)]


WAITING = """
import os
import time

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Waiting(CartPoleEnv):
    '''CartPole that takes 50 steps, then waits for the next kill: a byte in a file.'''

    seen = steps = 0

    def step(self, action):
        while (kills := os.path.getsize({kills!r})) == self.seen < {enough} and self.steps == 50:
            time.sleep(0.01)
        self.seen, self.steps = kills, 1 if kills != self.seen else self.steps + 1
        return super().step(action)


gymnasium.register("Waiting-v0", Waiting)
"""


@pytest.mark.fault(
    "runners are killed (SIGKILL) at random moments",
    "made anew, the lost fragment sampled again: exit 0, exact count and weights, a warning each",
)
@pytest.mark.parametrize(
    "kills", [3, pytest.param(25, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_killed_runners_change_nothing(launcher: Launcher, tmp_path: Path, kills: int) -> None:
    count = tmp_path / "kills"
    count.touch()
    (tmp_path / "waiting.py").write_text(WAITING.format(kills=str(count), enough=kills))
    one = {"env": "waiting:Waiting-v0", "total_steps": 4 * 128 * (1 + kills)}
    one["evaluation"] = {"interval": 0, "num_episodes": 2}
    one["checkpoints"] = {"interval": 0}  # else there is a third process, which writes them
    write_config(tmp_path / "config.yaml", settings("ppo", "process", **one))
    chance, done = random.Random(kills), 0
    pid = launcher.start(*BEGIN, "--trust", "waiting")
    while done < kills and Path(f"/proc/{pid}").exists():
        time.sleep(chance.uniform(0.05, 0.25))
        alive = _runners(pid)
        if len(alive) == 2 and (tmp_path / "run" / "episodes.csv").exists():
            victim = chance.choice(alive)
            done += kill(victim)
            assert gone([victim])
            with count.open("ab") as file:
                file.write(b".")
    assert launcher.wait() == 0, launcher.said()
    assert done == kills
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("warning: ") == log.count("SIGKILL") == kills, log
    last = list(csv.DictReader((tmp_path / "run" / "progress.csv").read_text().splitlines()))
    told = [float(row["sampler/restarts"]) for row in last if row["sampler/restarts"]]
    assert told[-1] <= kills
    assert told[-1] >= kills - 1, "one may have come after the last row"
    write_config(tmp_path / "whole.yaml", settings("ppo", "inline", **one))
    whole = ("--config", "whole.yaml", "--run-dir", "whole", "--trust", "waiting")
    assert launcher.run(*whole) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


FAULTY = """
import ctypes
import os
import subprocess
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv


class Faulty(CartPoleEnv):
    '''CartPole that does something bad in its 40th step, every time or the first time ever.'''

    steps = 0

    def step(self, action):
        self.steps += 1
        observation, reward, terminated, truncated, info = super().step(action)
        flag = Path({flag!r})
        if self.steps == 40 and not ({once} and flag.exists()):
            flag.touch()
            {fault}
        return observation, reward, terminated, truncated, info


gymnasium.register("Faulty-v0", Faulty)
"""


def _run_with(launcher: Launcher, fault: str, *, once: bool) -> int:
    flag = str(launcher.directory / "flag")
    text = FAULTY.format(flag=flag, once=once, fault=fault)
    (launcher.directory / "faulty.py").write_text(text)
    values = settings("ppo", "process", total_steps=1024, evaluation={"num_episodes": 1}) | {
        "env": "faulty:Faulty-v0",
        "env_runners": {"num": 2, "envs_per_runner": 2, "step_timeout": 2.0},
        "runtime": {"engine": "process", "max_restarts": 3},
    }
    write_config(launcher.directory / "config.yaml", values)
    return launcher.run(*BEGIN, "--trust", "faulty")


CRASHES = {
    "an environment ends its process": "os._exit(0)",
    "a segmentation fault in an environment": "ctypes.string_at(0)",
    "an environment kills itself": "os.kill(os.getpid(), 9)",
    "an environment hangs": "time.sleep(1e6)",
    "an environment hangs and holds the interpreter": "ctypes.PyDLL(None).sleep(1000000)",
}


@pytest.mark.fault(
    "an environment exits, crashes or hangs once, with or without the GIL",
    "its runner is made anew (after step_timeout when it hangs); exit 0, same weights",
)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[] if "seg" in fault or "holds" in fault else [pytest.mark.slow])
        for fault in CRASHES
    ],
)
def test_a_crash_in_an_environment_changes_nothing(
    launcher: Launcher, tmp_path: Path, fault: str
) -> None:
    assert _run_with(launcher, CRASHES[fault], once=True) == 0, launcher.said()
    assert launcher.said().count("warning: ") >= 1
    (tmp_path / "run").rename(tmp_path / "disturbed")
    assert _run_with(launcher, "pass", once=True) == 0, launcher.said()
    assert_same_run(tmp_path / "disturbed", tmp_path / "run")


BROKEN = {
    "raise ValueError('my wall')": (3, "my wall"),
    "observation = observation * np.nan": (3, "nan"),
    "observation = observation[:2]": (3, "shape (2,)"),
    "reward = 'much'": (3, "reward"),
    "os._exit(7)": (4, "exit code 7"),
}


@pytest.mark.fault(
    "an environment returns NaN, a wrong shape or no reward, or raises more often than"
    " env_runners.max_env_failures",
    "code 3 with environment, step and value; the environment's own traceback; failure.json",
)
@pytest.mark.fault(
    "an environment ends its process every time",
    "code 4 with the exit code, after three alike; failure.json",
)
@pytest.mark.parametrize("fault", list(BROKEN))
def test_an_environment_that_is_broken_ends_the_run(
    launcher: Launcher, tmp_path: Path, fault: str
) -> None:
    code, word = BROKEN[fault]
    assert _run_with(launcher, fault, once=False) == code, launcher.said()
    last = launcher.said().splitlines()
    assert sum(line.startswith("error: ") for line in last) == 1
    assert word in launcher.said()
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert failure["exit_code"] == code
    assert word in failure["message"]


LATE = """
import os

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Late(CartPoleEnv):
    '''CartPole that raises after so many steps of all together, until it is mended.'''

    total = 0

    def step(self, action):
        Late.total += 1
        if Late.total > {after} and not os.path.exists("mended"):
            raise RuntimeError("too late")
        return super().step(action)


gymnasium.register("Late-v0", Late)
"""


@pytest.mark.fault(
    "an environment is broken after hours of training, or when it is evaluated",
    "code 3; what was learnt until then is in a checkpoint, from which --resume goes on",
)
@pytest.mark.parametrize(("after", "kept"), [(300, 256), (512, 512)])
def test_what_was_learnt_before_an_environment_broke_is_kept(
    launcher: Launcher, tmp_path: Path, after: int, kept: int
) -> None:
    (tmp_path / "late.py").write_text(LATE.format(after=after))
    values = settings("ppo", "inline", total_steps=512, checkpoints={"interval": 0}) | {
        "env": "late:Late-v0",
        "evaluation": {"interval": 0, "num_episodes": 2},
        "env_runners": {"num": 2, "envs_per_runner": 2, "max_env_failures": 0},
    }
    write_config(tmp_path / "config.yaml", values)
    assert launcher.run(*BEGIN, "--trust", "late") == 3, launcher.said()
    assert "raised RuntimeError: too late" in launcher.said().splitlines()[-1]
    checkpoint = f"checkpoint step_{kept:09d} is kept: once that is mended, --resume run goes on"
    assert checkpoint in launcher.said()
    newest, _ = CheckpointStore(tmp_path / "run" / "checkpoints").newest_valid()
    assert newest.meta["env_steps"] == kept
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert failure["checkpoint"] == f"checkpoints/{newest.path.name}"
    (tmp_path / "mended").touch()
    assert launcher.run("--resume", "run", "--trust", "late") == 0, launcher.said()
    (tmp_path / "run").rename(tmp_path / "disturbed")
    assert launcher.run(*BEGIN, "--trust", "late") == 0, launcher.said()
    assert_same_run(tmp_path / "disturbed", tmp_path / "run")


STUMBLING = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Stumbling(CartPoleEnv):
    '''CartPole that raises in the 7th step of some episodes; in which, their seeds say.'''

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        self.steps, self.bad = 0, self.np_random.random() < 0.2
        return result

    def step(self, action):
        self.steps += 1
        if self.bad and self.steps == 7:
            raise RuntimeError("it stumbled")
        return super().step(action)


gymnasium.register("Stumbling-v0", Stumbling)
"""


@pytest.mark.fault(
    "an environment raises now and then",
    "its episode ends as truncated, it is made anew, a warning with its traceback; exit 0; the same"
    " weights on every engine, and after kill -9 and --resume",
)
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_an_environment_that_raises_now_and_then_is_made_anew(
    launcher: Launcher, tmp_path: Path, algo: str
) -> None:
    (tmp_path / "stumbling.py").write_text(STUMBLING)
    runners = {"num": 2, "envs_per_runner": 2, "max_env_failures": 1000}
    keep = {"interval": 256, "keep": 20}
    for engine in ("inline", "process"):
        values = settings(algo, engine, env_runners=runners, checkpoints=keep)
        write_config(tmp_path / "config.yaml", values | {"env": "stumbling:Stumbling-v0"})
        start = ("--config", "config.yaml", "--run-dir", engine, "--trust", "stumbling")
        assert launcher.run(*start) == 0, launcher.said()
        assert launcher.said().count("it stumbled. Its episode ends there") >= 3
        assert launcher.said().count('raise RuntimeError("it stumbled")') == 1
    assert_same_run(tmp_path / "process", tmp_path / "inline")
    rows = list(csv.DictReader((tmp_path / "inline" / "progress.csv").read_text().splitlines()))
    told = [float(row["sampler/env_failures"]) for row in rows if row["sampler/env_failures"]]
    assert told[-1] >= 3
    forget_the_end(tmp_path / "process", 768)
    assert launcher.run("--resume", "process", "--trust", "stumbling") == 0, launcher.said()
    assert_same_run(tmp_path / "process", tmp_path / "inline")


@pytest.mark.fault(
    "the driver is killed while an environment has children of its own",
    "no process of the run is left",
)
def test_nothing_outlives_a_killed_driver(launcher: Launcher, tmp_path: Path) -> None:
    text = FAULTY.format(
        flag=str(tmp_path / "flag"), once=True, fault="subprocess.Popen(['sleep', '1000'])"
    )
    (tmp_path / "faulty.py").write_text(text)
    values = settings("ppo", "process", total_steps=10**7, evaluation={"interval": 0})
    write_config(tmp_path / "config.yaml", values | {"env": "faulty:Faulty-v0"})
    pid = launcher.start(*BEGIN, "--trust", "faulty")
    deadline = time.monotonic() + 60
    while not (tmp_path / "flag").exists():
        assert time.monotonic() < deadline, launcher.said()
        time.sleep(0.02)
    while "sleep" not in [_name(child) for child in descendants(pid)]:
        assert time.monotonic() < deadline, launcher.said()
        time.sleep(0.02)
    below = list(descendants(pid))
    assert kill(pid)
    assert launcher.wait() == -9
    assert gone(below), "something outlived the driver"


@pytest.mark.fault(
    "the whole run is suspended (SIGSTOP) for longer than step_timeout, and resumed",
    "nobody is taken for hung; same weights",
)
def test_a_run_that_was_suspended_goes_on(launcher: Launcher, tmp_path: Path) -> None:
    values = settings("ppo", "process", total_steps=4096) | {
        "env_runners": {"num": 2, "envs_per_runner": 2, "step_timeout": 1.0}
    }
    write_config(tmp_path / "config.yaml", values)
    pid = launcher.start(*BEGIN)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "episodes.csv").exists():
        assert time.monotonic() < deadline, launcher.said()
        time.sleep(0.01)
    everyone = [pid, *descendants(pid)]
    for number, seconds in ((signal.SIGSTOP, 2.5), (signal.SIGCONT, 0.0)):
        for each in everyone:
            kill(each, number)
        time.sleep(seconds)
    assert launcher.wait() == 0, launcher.said()
    assert "warning" not in launcher.said()


@pytest.mark.fault(
    "the clock of the wall jumps by a day, to and fro", "no timeout, no negative speed"
)
def test_a_clock_that_jumps_changes_nothing(launcher: Launcher, tmp_path: Path) -> None:
    write_config(tmp_path / "config.yaml", settings("ppo", "process"))
    assert launcher.run(*BEGIN, skew=86_400.0) == 0, launcher.said()
    assert "warning" not in launcher.said()
    rows = csv.DictReader((tmp_path / "run" / "progress.csv").read_text().splitlines())
    assert all(float(row["time/fps"]) > 0 for row in rows if row["time/fps"])


@pytest.mark.fault(
    "a loss, gradient or parameter becomes infinite or NaN for good",
    "code 5 after three skipped updates in a row; the batch is kept in diverged_<step>/;"
    " checkpoints from before stand and are finite",
)
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_a_run_that_diverges_keeps_its_batch(launcher: Launcher, tmp_path: Path, algo: str) -> None:
    text = FAULTY.format(flag=str(tmp_path / "flag"), once=False, fault="pass").replace(
        "return observation, reward,",
        "return observation, reward * (3e38 if self.steps > 150 else 1.0),",
    )
    (tmp_path / "faulty.py").write_text(text)
    values = settings(algo, "inline", normalize_rewards=False, checkpoints={"interval": 128})
    write_config(tmp_path / "config.yaml", values | {"env": "faulty:Faulty-v0"})
    assert launcher.run(*BEGIN, "--trust", "faulty") == 5, launcher.said()
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    kept = read_checkpoint(tmp_path / "run" / failure["batch"])
    parts = [kept.arrays(name) for name in kept.files]
    assert max(part["rewards"].max() for part in parts if "rewards" in part) > 1e38
    batches = [part["returns"].max() for part in parts if "returns" in part]
    assert len(batches) == (algo == "dqn")
    assert all(largest > 1e38 for largest in batches)
    newest, skipped = CheckpointStore(tmp_path / "run" / "checkpoints").newest_valid()
    assert skipped == []
    weights = newest.arrays("policy/weights.safetensors")
    assert all(np.isfinite(array).all() for array in weights.values())


UNLUCKY = """
import rl
from rl.algorithms.ppo import PPO, PPOConfig, PPOLearner


class UnluckyLearner(PPOLearner):
    def loss(self, batch, clip_range):
        loss, terms = super().loss(batch, clip_range)
        bad = self.num_updates in (5, 6, 40)
        return (loss * float("nan"), terms) if bad else (loss, terms)


class Unlucky(PPO):
    def make_learner(self):
        return UnluckyLearner(self.config, self.spaces, self.config.num_environments)


@rl.config
class UnluckyConfig(PPOConfig):
    algorithm_path = "unlucky:Unlucky"
"""


@pytest.mark.fault(
    "a loss or gradient is infinite or NaN once",
    "that update is skipped and counted (train/skipped_updates), a warning, the run goes on",
)
def test_a_loss_that_is_nan_now_and_then_is_left_out(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "unlucky.py").write_text(UNLUCKY)
    values = settings("ppo", "inline", total_steps=768) | {"algo": "unlucky:UnluckyConfig"}
    write_config(tmp_path / "config.yaml", values)
    assert launcher.run(*BEGIN, "--trust", "unlucky") == 0, launcher.said()
    assert launcher.said().count("were skipped") == 2
    rows = list(csv.DictReader((tmp_path / "run" / "progress.csv").read_text().splitlines()))
    told = [float(row["train/skipped_updates"]) for row in rows if row["train/skipped_updates"]]
    assert told[0] == 2
    assert told[-1] == 3
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert np.isfinite(losses).all()
    newest, _ = CheckpointStore(tmp_path / "run" / "checkpoints").newest_valid()
    weights = newest.arrays("policy/weights.safetensors")
    assert all(np.isfinite(array).all() for array in weights.values())
