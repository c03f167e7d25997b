"""The driver's side of a forkserver: asks for workers and hears how they end."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

from rl.core.runtime.forkserver import MAX_MESSAGE, Birth
from rl.core.runtime.nursery import Forkserver, take
from rl.core.runtime.reactor import Reactor

__all__ = ["Launcher"]

BIRTHS_AT_ONCE = 32
"""Wishes under way; more could fill both directions of the socket and block each end on the
other."""
Report = Callable[[str, int, object], None]
"""`born` with the pid, `stillborn` with a reason, `gone` with the wait status; the worker's number
is second."""


class Launcher:
    """One forkserver, started at once but not waited for. Used with the reactor's lock held."""

    def __init__(self, preload: Sequence[str], reactor: Reactor, on_report: Report) -> None:
        self._reactor = reactor
        self._on_report = on_report
        self._waiting: deque[tuple[Birth, tuple[int, int, int, int]]] = deque()
        self._under_way = 0
        self._living: dict[int, int | None] = {}  # number of the worker -> pid
        self.lost = False
        """Its process is gone; make another launcher."""
        self._forkserver = take(preload) or Forkserver.start(preload)
        self.modules = frozenset(self._forkserver.preload)
        """What its workers find imported."""
        self._control = self._forkserver.control
        for change in self._forkserver.changes().items():
            self._tell(("variable", *change), ())
        reactor.register(self._control.fileno(), self._hear)

    def start(self, birth: Birth, fds: tuple[int, int, int, int]) -> None:
        """Asks for a worker; its descriptors (line, lane, board, stderr) are closed when sent."""
        self._living[birth.number] = None
        self._waiting.append((birth, fds))
        self._send_births()

    def signal(self, number: int, signal_number: int) -> None:
        """Sends a signal to a worker and all its descendants; none once it is gone."""
        for birth, fds in list(self._waiting):
            if birth.number == number:  # never asked for
                self._waiting.remove((birth, fds))
                _close(fds)
                self._living.pop(number, None)
                self._on_report("stillborn", number, "ended before it began")
                return
        if number in self._living:
            self._tell(("signal", number, signal_number), ())

    def close(self) -> None:
        """Ends the forkserver, every worker and every descendant; returns when all are gone."""
        if not self.lost:
            self._reactor.unregister(self._control.fileno())
        for _, fds in self._waiting:
            _close(fds)
        self._waiting.clear()
        self._forkserver.end()

    def _send_births(self) -> None:
        while self._waiting and self._under_way < BIRTHS_AT_ONCE and not self.lost:
            birth, fds = self._waiting.popleft()
            self._under_way += 1
            self._tell(("birth", birth), fds)
            _close(fds)

    def _tell(self, message: tuple[object, ...], fds: tuple[int, ...]) -> None:
        with contextlib.suppress(OSError):  # a lost forkserver is noticed when it is read from
            socket.send_fds(self._control, [pickle.dumps(message)], fds)

    def _hear(self) -> None:
        while not self.lost:
            try:
                data = self._control.recv(MAX_MESSAGE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._mourn()
                return
            word, number, value = pickle.loads(data)
            if word in ("born", "stillborn"):
                self._under_way -= 1
            if word == "born":
                self._living[number] = value
            else:
                self._living.pop(number, None)
            self._on_report(word, number, value)
            self._send_births()

    def _mourn(self) -> None:
        """The forkserver was killed; the kernel kills its workers, but not their children."""
        self.lost = True
        self._reactor.unregister(self._control.fileno())
        self._forkserver.process.wait()
        for _, fds in self._waiting:
            _close(fds)
        self._waiting.clear()
        living, self._living = self._living, {}
        for number, pid in living.items():
            if pid is not None:
                _end_group(pid)
            self._on_report("orphaned", number, None)


def _end_group(pid: int, patience: float = 1.0) -> None:
    """Kills a group whose leader is no child of ours, and waits until the leader is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        pidfd = None
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    if pidfd is None:
        time.sleep(0.05)
        return
    select.select([pidfd], [], [], patience)
    os.close(pidfd)


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
