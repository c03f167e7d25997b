"""The driver's side of a forkserver: asks for workers and hears how they end."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from rl.core.runtime.forkserver import MAX_MESSAGE, Birth
from rl.core.runtime.reactor import Reactor

__all__ = ["LIGHT", "Launcher"]

LIGHT = ("numpy", "gymnasium")
"""Imported for every worker, where installed: a quarter of a second that each would spend
otherwise."""
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Set to 1 before anything is imported: each worker is one of many, and their thread pools would
fight."""
BIRTHS_AT_ONCE = 32
"""Wishes under way; more could fill both directions of the socket and block each end on the
other."""
END_S = 4.0
"""The forkserver sweeps for at most three seconds."""

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
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                _command([*LIGHT, *preload], theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
                env={**os.environ, **dict.fromkeys(ONE_THREAD, "1")},
            )
        self._control = ours
        reactor.register(ours.fileno(), self._hear)

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
        self._control.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

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
        self._process.wait()
        for _, fds in self._waiting:
            _close(fds)
        self._waiting.clear()
        living, self._living = self._living, {}
        for number, pid in living.items():
            if pid is not None:
                _end_group(pid)
            self._on_report("orphaned", number, None)


def _command(preload: Sequence[str], control: int) -> list[str]:
    # The same sys.path as here, so that `rl` is found however it was found by the driver.
    code = (
        "import json, sys; task = json.loads(sys.argv[1]); sys.path[:] = task['path']; "
        "from rl.core.runtime.forkserver import main; main(task['arguments'])"
    )
    task = {
        "path": [str(Path(entry).absolute()) for entry in sys.path],
        "arguments": [
            *("--control", str(control)),
            *("--driver", str(os.getpid())),
            *("--preload", *preload),
        ],
    }
    return [sys.executable, "-c", code, json.dumps(task)]


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
