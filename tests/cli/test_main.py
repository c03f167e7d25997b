"""Every end of a command is an exit code and at most one message."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from rl.cli.main import rl_main, run_command
from rl.errors import (
    ActorError,
    CheckpointError,
    ConfigError,
    Diverged,
    EnvironmentFault,
    Problem,
    UsageError,
)


def fails_with(error: BaseException, cause: BaseException | None = None) -> int:
    def command(arguments: list[str]) -> int:
        raise error from cause

    return run_command(command, [])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no"), 2),
        (ConfigError("train", [Problem("gamma", "no")]), 2),
        (EnvironmentFault("no"), 3),
        (ActorError("no"), 4),
        (Diverged("no"), 5),
        (CheckpointError("no"), 6),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("no"), 1),
    ],
)
def test_an_error_has_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fails_with(error) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("error: ") == 1


def test_a_success_says_nothing_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(len, []) == 0
    assert capsys.readouterr().err == ""


def test_files_that_run_out_are_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    code = fails_with(OSError(errno.EMFILE, os.strerror(errno.EMFILE), "run"))
    assert code == 4
    said = capsys.readouterr().err
    assert said.startswith("error: [Errno 24] Too many open files: 'run': ")
    assert "raise its limit (ulimit -n)" in said
    assert fails_with(OSError(errno.EIO, "no")) == 1


def test_a_mistake_of_the_user_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    fails_with(UsageError("env Maze: no such environment"), KeyError("Maze"))
    assert capsys.readouterr().err == "error: env Maze: no such environment\n"


def test_the_users_own_error_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("my wall")
    except ValueError as error:
        cause = error
    assert fails_with(EnvironmentFault("env Maze: step raised"), cause) == 3
    said = capsys.readouterr().err
    assert "my wall" in said
    assert "test_main.py" in said
    assert said.endswith("error: env Maze: step raised\n")


def test_a_bug_of_ours_shows_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    fails_with(ZeroDivisionError("oh"))
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "a bug of rl" in said


def test_sigterm_ends_a_command_in_order() -> None:
    cleaned = []

    def command(arguments: list[str]) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except KeyboardInterrupt:
            cleaned.append(True)
            raise
        return 0

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run_command(command, []) == 143
        assert cleaned == [True]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_interruption_that_knows_its_code_keeps_it() -> None:
    class Stopped(KeyboardInterrupt):
        exit_code = 143

    assert fails_with(Stopped("SIGTERM: checkpoint x")) == 143


def test_an_unknown_command_has_a_near_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert rl_main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


def test_rl_alone_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert rl_main([]) == 0
    said = capsys.readouterr().out
    for command in ("train", "evaluate", "algos", "envs", "doctor", "bench"):
        assert command in said


def test_algorithms_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert rl_main(["algos"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("ppo  proximal policy optimization")
    assert "all actions" in said


def test_environments_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert rl_main(["envs", "CARTPOLE"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:4] == ["CartPole-v1", "preset:", "ppo,", "dqn,"] for line in lines)
    assert not any("Pendulum" in line for line in lines)


def test_an_environment_that_needs_an_extra_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert rl_main(["envs", "LunarLander-v3"]) == 0
    assert "extra box2d" in capsys.readouterr().out


def test_a_listing_takes_no_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert rl_main(["algos", "--json"]) == 2
    assert "--json: there is no such flag" in capsys.readouterr().err
