"""One shared page per worker: how far it has come, and which calls it shall skip.

The driver reads progress here without asking, so a worker that hangs while it holds the interpreter
is seen all the same, and a call is taken back without waiting for the worker to listen.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from typing import Protocol

from rl.core.runtime.segments import create_memory

__all__ = ["WINDOW", "Board", "note_progress", "use_board"]

WINDOW = 256
"""Calls that may be under way to one worker; the next wait in the driver. Also keeps sends from
blocking."""

_SIZE = 4096
_BEGUN, _PROGRESS, _SLOTS = 0, 1, 8
_fence = threading.Lock()


class Board:
    """The page, mapped by the driver and by one worker."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._page = mmap.mmap(fd, _SIZE)
        self._words = memoryview(self._page).cast("Q")

    @classmethod
    def create(cls) -> Board:
        """A fresh page; the driver's side."""
        return cls(create_memory(_SIZE))

    def begin(self, number: int) -> bool:
        """The worker begins call `number`; False when it was taken back and must be skipped."""
        self._words[_PROGRESS] = time.monotonic_ns()
        self._words[_BEGUN] = number
        _full_fence()
        return self._words[_SLOTS + number % WINDOW] != number

    def take_back(self, number: int) -> bool:
        """The driver takes back a call it has sent; False when the worker has begun it."""
        self._words[_SLOTS + number % WINDOW] = number
        _full_fence()
        return self._words[_BEGUN] < number

    def note_progress(self) -> None:
        """The worker has come further within a call."""
        self._words[_PROGRESS] = time.monotonic_ns()

    @property
    def progress_at(self) -> float:
        """When the worker last came further, in seconds of `time.monotonic`; 0 at first."""
        return self._words[_PROGRESS] / 1e9

    def close(self) -> None:
        """Unmaps the page."""
        self._words.release()
        self._page.close()
        os.close(self.fd)


def _full_fence() -> None:
    # Both sides write their own word, then read the other's: without a fence between, each could
    # miss the other's write. Taking a lock is the full fence that Python offers.
    with _fence:
        pass


class NotesProgress(Protocol):
    """Whatever wants to know that a call is getting on."""

    def note_progress(self) -> None: ...


_mine: list[NotesProgress] = []


def use_board(board: NotesProgress) -> None:
    """Makes `board` the one that `note_progress` writes to in this process."""
    _mine[:] = [board]


def note_progress() -> None:
    """Tells the runtime that the call under way is getting on, so that `step_timeout` starts anew.

    For calls made of many steps, each of which may be slow. Does nothing outside a worker.
    """
    for board in _mine:
        board.note_progress()
