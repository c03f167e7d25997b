"""Who listens: one loop over all descriptors, turned by whoever waits for a result.

A thread that waits turns the loop itself, because handing an answer from one thread to another
costs as much as the answer took to come. While nobody waits, a thread in the background turns it,
so deaths are seen and callbacks run all the same. Handlers run with `lock` held, one at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Reactor"]

logger = logging.getLogger(__name__)

BUSY_TICK = 0.05
"""Seconds between ticks while something has a deadline."""
IDLE_TICK = 0.5
EVENTS_AT_ONCE = 64
"""The rest comes with the next turn."""
LINGER = 0.005
"""Seconds that the background stays away after a waiting thread has turned the loop: that thread
will be back soon, and two listeners would only wake each other up."""


class Reactor:
    """The loop. `on_tick(now)` is called with the lock; whether soon again, it returns."""

    def __init__(self, on_tick: Callable[[float], bool]) -> None:
        self.lock = threading.RLock()
        self._on_tick = on_tick
        self._tick_at = 0.0
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._writers: dict[int, Callable[[], bool]] = {}
        self._later: deque[Callable[[], object]] = deque()
        self._turning = threading.Lock()
        self._turned = threading.Condition()
        self._waiters: list[None] = []  # one entry each: append and pop need no lock
        self._last_foreground = 0.0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self.register(self._wake_read, self._drain_wake)
        self._closed = False
        self._thread = threading.Thread(target=self._background, name="rl-runtime", daemon=True)
        self._thread.start()

    def register(self, fd: int, handler: Callable[[], object]) -> None:
        """Calls `handler()` whenever `fd` can be read or is hung up."""
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def write_later(self, fd: int, writer: Callable[[], bool]) -> None:
        """Calls `writer()` when a registered `fd` can be written to, until it returns True."""
        if fd in self._handlers:
            self._writers[fd] = writer
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)

    def unregister(self, fd: int) -> None:
        """Before `fd` is closed."""
        self._writers.pop(fd, None)
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def nudge(self) -> None:
        """Makes waiting threads look again: something was settled outside the loop."""
        if self._waiters:
            self._wake()
            with self._turned:
                self._turned.notify_all()

    def call_later(self, callback: Callable[[], object]) -> None:
        """Runs a user's callback soon, without the lock."""
        self._later.append(callback)

    def stay_away(self) -> None:
        """A thread makes calls and will want their answers: the background lets it be."""
        self._last_foreground = time.monotonic()

    def tick_soon(self) -> None:
        """Something has got a deadline."""
        self._tick_at = min(self._tick_at, time.monotonic() + BUSY_TICK)

    def block(self, until: Callable[[], bool], timeout: float | None) -> bool:
        """Turns the loop until `until()` or for `timeout` seconds; returns what `until()` says."""
        if until():
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        self._waiters.append(None)
        try:
            while not until():
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return until()
                if self._closed:
                    return until()
                if not self._try_turn(remaining, until):
                    with self._turned:
                        if not until() and self._turning.locked():
                            patience = BUSY_TICK if remaining is None else min(remaining, BUSY_TICK)
                            self._turned.wait(patience)
            return True
        finally:
            self._waiters.pop()
            self._last_foreground = time.monotonic()

    def run_later(self) -> None:
        """Runs what `call_later` has gathered; the caller does not hold the lock."""
        while self._later:
            try:
                callback = self._later.popleft()
            except IndexError:  # another thread took it
                return
            try:
                callback()
            except Exception:
                logger.exception("a done callback raised")

    def close(self) -> None:
        """Stops the background. Not to be called with the lock held."""
        self._closed = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=2)
        with self._turned:
            self._turned.notify_all()
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _turn(self, timeout: float | None) -> None:
        patience = max(0.0, self._tick_at - time.monotonic())
        if timeout is not None:
            patience = min(patience, timeout)
        events = self._epoll.poll(patience, EVENTS_AT_ONCE)
        with self.lock:
            for fd, happened in events:
                if happened & select.EPOLLOUT:
                    self._write(fd)
                handler = self._handlers.get(fd) if happened & ~select.EPOLLOUT else None
                if handler is not None:
                    handler()
            now = time.monotonic()
            if now >= self._tick_at:
                soon = self._on_tick(now)
                self._tick_at = now + (BUSY_TICK if soon else IDLE_TICK)

    def _write(self, fd: int) -> None:
        writer = self._writers.get(fd)
        if writer is not None and writer():
            del self._writers[fd]
            self._epoll.modify(fd, select.EPOLLIN)

    def _try_turn(
        self, timeout: float | None, until: Callable[[], bool], *, in_background: bool = False
    ) -> bool:
        """Turns once, unless another thread does; then False."""
        if not self._turning.acquire(blocking=False):
            return False
        try:
            if not self._closed and not until():
                self._turn(timeout)
        finally:
            self._turning.release()
            if len(self._waiters) > 1 or in_background:
                with self._turned:
                    self._turned.notify_all()
        # Not before: a callback that waits must find the loop free.
        self.run_later()
        return True

    def _background(self) -> None:
        while not self._closed:
            away = self._last_foreground + LINGER - time.monotonic()
            if self._waiters:
                away = BUSY_TICK
            if away > 0:
                time.sleep(away)
                continue
            try:
                self._try_turn(None, lambda: False, in_background=True)
            except Exception:
                logger.exception("the runtime's loop failed; it goes on")
                time.sleep(0.1)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def _drain_wake(self) -> None:
        with contextlib.suppress(OSError):
            os.read(self._wake_read, 4096)
