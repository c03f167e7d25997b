"""The console shows a run in a terminal, in a pipe, and in its log."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from rl.cli.console import TerminalReporter, duration, progress_line
from rl.configs import PPOConfig


@dataclass
class Progress:
    env_steps: int = 500
    total_steps: int = 2000
    iteration: int = 1
    episode_return_mean: float = 21.5
    episode_length_mean: float = 22.0
    steps_per_second: float = 100.0


@dataclass
class Outcome:
    env_steps: int = 2000
    seconds: float = 61.0
    steps_per_second: float = 100.0

    @property
    def evaluation(self) -> Evaluated:
        return Evaluated()


@dataclass
class Evaluated:
    mean: float = 475.0
    std: float = 25.0
    returns: Sequence[float] = (450.0, 500.0)
    env_steps: int = 2000


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def reporter(
    tmp_path: Path, clock: Clock, *, terminal: bool
) -> tuple[TerminalReporter, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, color_system=None)
    return TerminalReporter(tmp_path / "train.log", console, clock), out


def test_a_line_tells_steps_return_speed_and_time_left() -> None:
    assert progress_line(Progress()) == (
        "500 / 2,000 steps (25%)  return 21.50  length 22.00  100 steps/s  ETA 00:15"
    )


def test_what_is_not_known_yet_is_a_dash() -> None:
    line = progress_line(Progress(episode_return_mean=math.nan, steps_per_second=0.0))
    assert "return -" in line
    assert line.endswith("ETA --:--")


def test_durations_are_read_like_a_clock() -> None:
    assert [duration(59.6), duration(3725), duration(math.inf)] == ["01:00", "1:02:05", "--:--"]


def test_a_pipe_gets_few_lines(tmp_path: Path) -> None:
    clock = Clock()
    shown, out = reporter(tmp_path, clock, terminal=False)
    with shown:
        for _ in range(100):
            clock.now += 0.11
            shown.progress(Progress())
    assert len(out.getvalue().splitlines()) == 3  # at once, after 5 s, after 10 s


def test_a_terminal_gets_a_line_that_changes(tmp_path: Path) -> None:
    clock = Clock()
    shown, out = reporter(tmp_path, clock, terminal=True)
    with shown:
        shown.progress(Progress(env_steps=500))
        shown.progress(Progress(env_steps=600))
    assert "500 / 2,000" in out.getvalue()
    assert "600 / 2,000" in out.getvalue()
    assert "\x1b[" in out.getvalue()
    log = (tmp_path / "train.log").read_text()
    assert "500 / 2,000" in log
    assert "600 / 2,000" not in log  # a log gets a line each half minute


def test_what_is_shown_is_logged_too(tmp_path: Path) -> None:
    shown, out = reporter(tmp_path, Clock(), terminal=False)
    with shown:
        shown.start(PPOConfig(seed=3), tmp_path, 40)
        shown.evaluation(Evaluated())
        logging.getLogger("rl.some.part").warning("the disk is nearly full")
        shown.finish(Outcome())
    for text in (out.getvalue(), (tmp_path / "train.log").read_text()):
        assert "ppo on CartPole-v1, seed 3" in text
        assert "continuing at 40 steps" in text
        assert "return 475.00 +- 25.00 over 2 episodes" in text
        assert "warning: the disk is nearly full" in text
        assert "done: 2,000 steps in 01:01" in text


def test_a_log_is_continued(tmp_path: Path) -> None:
    for text in ("first", "second"):
        shown, _ = reporter(tmp_path, Clock(), terminal=False)
        with shown:
            shown.message(text)
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["first", "second"]


def test_a_full_disk_ends_the_log_but_not_the_run(tmp_path: Path) -> None:
    class Full(io.StringIO):
        def write(self, text: str, /) -> int:
            raise OSError(28, "No space left on device")

    shown, out = reporter(tmp_path, Clock(), terminal=False)
    with shown:
        assert shown._log is not None
        shown._log.close()
        shown._log = Full()
        shown.message("one")
        shown.message("two")
    assert out.getvalue().count("No space left") == 1
    assert "two" in out.getvalue()


def test_square_brackets_are_text(tmp_path: Path) -> None:
    shown, out = reporter(tmp_path, Clock(), terminal=False)
    with shown:
        shown.message("[bold] shape [3, 4]")
    assert out.getvalue() == "[bold] shape [3, 4]\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failure_leaves_the_terminal_as_it_was(tmp_path: Path, terminal: bool) -> None:
    shown, out = reporter(tmp_path, Clock(), terminal=terminal)

    def fail() -> None:
        with shown:
            shown.progress(Progress())
            raise ValueError("oh")

    with pytest.raises(ValueError, match="oh"):
        fail()
    if terminal:
        assert "\x1b[?25h" in out.getvalue()  # the cursor is back
    assert logging.getLogger("rl").handlers == []
