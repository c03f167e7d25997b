"""What signals ask of a run, and by when.

- Ctrl-C (SIGINT): end after this iteration, with a checkpoint; a second one ends at once.
- SIGTERM, SIGHUP: the same within a time of grace: half for the iteration, which is then given
  up, the rest for the checkpoint.
- SIGUSR1: a checkpoint after this iteration, and go on.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

__all__ = [
    "DEFAULT_GRACE_S",
    "GivenUp",
    "Interrupted",
    "StopRequests",
    "ends_at_once",
    "exit_code_of",
    "leave_at_once",
]

DEFAULT_GRACE_S = 20.0
"""Seconds from SIGTERM to the end; Kubernetes kills after 30."""
POLITE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exit_code_of(number: int) -> int:
    """128 and the signal's number, as shells count: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


class Interrupted(KeyboardInterrupt):
    """The run was asked to end early; it goes on from its newest checkpoint."""

    def __init__(self, signal_number: int, checkpoint: Path | None) -> None:
        kept = f"checkpoint {checkpoint}" if checkpoint else "there is no checkpoint yet"
        super().__init__(f"{signal.Signals(signal_number).name}: {kept}")
        self.signal_number = signal_number
        self.checkpoint = checkpoint

    @property
    def exit_code(self) -> int:
        """See `exit_code_of`."""
        return exit_code_of(self.signal_number)


class GivenUp(BaseException):
    """The time of grace is running out: what is under way is not waited for any longer.

    Not an `Exception`: nobody on the way shall take it for an error of the environment.
    """


class StopRequests:
    """Listens for signals while a run trains; use it in a `with` block.

    Outside the main thread, where signals cannot be handled, it hears none.
    """

    def __init__(self, grace: float, tell: Callable[[str], None]) -> None:
        """`grace` in seconds; `tell` puts a line where people see it, at once."""
        self.number: int | None = None
        """Of the signal that asked for the end, if one did."""
        self._grace = grace
        self._tell = tell
        self._save = False
        self._waiting = False
        self._overdue = False
        self._before: dict[int, Any] = {}
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (*POLITE, signal.SIGUSR1):
                # nohup and its like have SIGHUP ignored, and mean it.
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for timer in self._timers:
            timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pressing(self) -> bool:
        """Whether a signal waits to be heeded."""
        return self.number is not None or self._save

    def save_asked(self) -> bool:
        """Whether somebody asked for a checkpoint since the last call."""
        asked, self._save = self._save, False
        return asked

    @contextmanager
    def may_give_up(self) -> Iterator[None]:
        """Around what may be left unfinished: when the grace runs out, `GivenUp` is raised."""
        self._waiting = True
        try:
            if self._overdue:
                raise GivenUp
            yield
        finally:
            self._waiting = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self._save = True
            return
        if number == signal.SIGINT and self.number is not None:
            leave_at_once(number)
        if number == signal.SIGINT:
            self.number = number
            self._tell("Ctrl-C: finishing this iteration, then a checkpoint; again: ends at once")
        elif self._overdue:
            if self._waiting:
                self._waiting = False
                raise GivenUp
        elif not self._timers:
            self.number = number
            self._tell(
                f"{signal.Signals(number).name}: a checkpoint and the end, within {self._grace:g} s"
            )
            self._arm(number)

    def _arm(self, number: int) -> None:
        main = threading.main_thread().ident
        assert main is not None

        def overdue() -> None:
            self._overdue = True
            signal.pthread_kill(main, number)  # wakes it, wherever it waits

        self._timers = [
            threading.Timer(self._grace * 0.5, overdue),
            threading.Timer(self._grace * 0.95, leave_at_once, (number,)),
        ]
        for timer in self._timers:
            timer.daemon = True
            timer.start()


def leave_at_once(number: int) -> None:
    """Ends the process now, in silence; the workers notice and end themselves."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # the live line had hidden the cursor
    os._exit(exit_code_of(number))


@contextmanager
def ends_at_once() -> Iterator[None]:
    """While a run does not listen to signals itself, there is nothing to save: they end it.

    Not by an exception, which whatever is being imported would take for its own.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        text = f"error: stopped: {signal.Signals(number).name}\n"
        os.write(sys.stderr.fileno(), text.encode())
        leave_at_once(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
