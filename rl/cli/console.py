"""What a run says while it trains: a live line in a terminal, else plain ones, and `train.log`."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rl.configs.algorithm_config import AlgorithmConfig

__all__ = ["Reporter", "TerminalReporter", "progress_line"]

PLAIN_INTERVAL_S = 5.0
"""Between two lines of progress in a file or pipe."""
LOG_INTERVAL_S = 30.0
"""Between two lines of progress in `train.log`, where a terminal shows them live."""


class ProgressShown(Protocol):
    """What is shown of an iteration."""

    @property
    def env_steps(self) -> int:
        """Environment steps so far."""

    @property
    def total_steps(self) -> int:
        """The budget."""

    @property
    def iteration(self) -> int:
        """Iterations so far."""

    @property
    def episode_return_mean(self) -> float:
        """NaN before the first episode has ended."""

    @property
    def episode_length_mean(self) -> float:
        """NaN before the first episode has ended."""

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second."""


class EvaluationShown(Protocol):
    """What is shown of an evaluation."""

    @property
    def mean(self) -> float:
        """Mean return."""

    @property
    def std(self) -> float:
        """Standard deviation of the returns."""

    @property
    def returns(self) -> Sequence[float]:
        """One for each episode."""

    @property
    def env_steps(self) -> int:
        """Environment steps the policy was trained for."""


class OutcomeShown(Protocol):
    """What is shown at the end."""

    @property
    def env_steps(self) -> int:
        """Environment steps of the run."""

    @property
    def seconds(self) -> float:
        """Wall time."""

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second of training."""

    @property
    def evaluation(self) -> EvaluationShown:
        """Of the final policy."""


class Reporter(Protocol):
    """Who is told how a run goes."""

    def start(self, config: AlgorithmConfig, run_dir: Path, steps_done: int) -> None:
        """The run begins, or goes on after so many steps."""

    def progress(self, result: ProgressShown) -> None:
        """An iteration has ended."""

    def evaluation(self, evaluation: EvaluationShown) -> None:
        """The policy was tested."""

    def message(self, text: str) -> None:
        """Something else worth a line."""

    def finish(self, result: OutcomeShown) -> None:
        """The run is over."""


def duration(seconds: float) -> str:
    """`1:02:03`, or `02:03`; `--:--` when it cannot be known."""
    if not math.isfinite(seconds) or seconds < 0:
        return "--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def progress_line(result: ProgressShown) -> str:
    """Steps, return, speed and the time that is left, in one line."""
    left = max(result.total_steps - result.env_steps, 0)
    speed = result.steps_per_second
    return (
        f"{result.env_steps:,} / {result.total_steps:,} steps"
        f" ({result.env_steps / result.total_steps:.0%})"
        f"  return {_number(result.episode_return_mean)}"
        f"  length {_number(result.episode_length_mean)}"
        f"  {speed:,.0f} steps/s"
        f"  ETA {duration(left / speed if speed > 0 else math.inf)}"
    )


class _Forward(logging.Handler):
    """Shows the warnings of the platform's own loggers."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(f"{record.levelname.lower()}: {record.getMessage()}")


class _Console(Console):
    """A console that goes silent when nobody reads any more: `train | head` trains on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # The interpreter flushes standard output at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class TerminalReporter:
    """The reporter of `train`. Use it in a `with` block, which leaves the terminal as it was."""

    def __init__(
        self,
        log_file: Path,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Shows on standard output and appends to `log_file`; `clock` counts seconds."""
        self._console = console or _Console(highlight=False)
        self._live: Live | None = None
        self._clock = clock
        self._shown_at = -math.inf
        self._logged_at = -math.inf
        self._run_dir: Path | None = None
        self._log: TextIO | None = log_file.open("a", encoding="utf-8", buffering=1)
        self._handler = _Forward(self.message)

    def __enter__(self) -> TerminalReporter:
        logging.getLogger("rl").addHandler(self._handler)
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("rl").removeHandler(self._handler)
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._log is not None:
            self._log.close()
            self._log = None

    @property
    def started(self) -> bool:
        """Whether the run has begun."""
        return self._run_dir is not None

    def start(self, config: AlgorithmConfig, run_dir: Path, steps_done: int) -> None:
        """Says what is trained and where it is kept."""
        self._run_dir = run_dir
        begins = f", continuing at {steps_done:,} steps" if steps_done else ""
        self.message(
            f"{config.label()} on {config.env_id}, seed {config.seed},"
            f" {config.total_steps:,} steps{begins} -> {run_dir}"
        )

    def progress(self, result: ProgressShown) -> None:
        """Renews the live line, or adds a plain one when the last is old enough."""
        now = self._clock()
        line = progress_line(result)
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
            if now - self._logged_at >= LOG_INTERVAL_S:
                self._logged_at = now
                self._write(line)
        elif now - self._shown_at >= PLAIN_INTERVAL_S:
            self._shown_at = now
            self.message(line)

    def evaluation(self, evaluation: EvaluationShown) -> None:
        """Adds a line with the mean and the spread."""
        self.message(
            f"evaluation at {evaluation.env_steps:,} steps: return {evaluation.mean:.2f}"
            f" +- {evaluation.std:.2f} over {len(evaluation.returns)} episodes"
        )

    def message(self, text: str) -> None:
        """Adds a line, above the live one where there is one."""
        self._console.print(Text(text), soft_wrap=True)
        self._write(text)

    def finish(self, result: OutcomeShown) -> None:
        """Adds what the run came to."""
        self.message(
            f"done: {result.env_steps:,} steps in {duration(result.seconds)}"
            f" ({result.steps_per_second:,.0f} steps/s), return {result.evaluation.mean:.2f}"
        )
        if self._run_dir is not None:
            board = self._run_dir.parent
            self.message(f"rl evaluate {self._run_dir}   tensorboard --logdir {board}")

    def _write(self, text: str) -> None:
        """Adds a line to the log; a full disk ends the log, not the run."""
        if self._log is None:
            return
        try:
            self._log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")
        except OSError as error:
            with contextlib.suppress(OSError):
                self._log.close()
            self._log = None
            self._console.print(Text(f"warning: train.log ends here: {error}"), soft_wrap=True)
