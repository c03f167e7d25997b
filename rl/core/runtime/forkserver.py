"""The small process that workers are born from, and that outlives the driver to clean up after it.

It has the light imports loaded and one thread, so a worker is a fork away: milliseconds. It is the
parent of every worker, so it alone reaps them, tells how they ended, and can signal them without
hitting a stranger that got the same number. It adopts what workers leave behind (their own child
processes), and when the driver is gone, however it went, it kills everything.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import pickle
import random
import select
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rl.core.runtime.worker import WorkerPlace, run_worker

__all__ = ["DUMP_SIGNAL", "MAX_MESSAGE", "Birth", "main", "worker_main"]

DUMP_SIGNAL = signal.SIGUSR1
"""Makes a worker write its stacks to stderr, even while it holds the interpreter lock."""
MAX_MESSAGE = 65_536
"""Bytes of one message between driver and forkserver."""
SWEEP_S = 3.0
"""How long the end of everything may take."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True)
class Birth:
    """The wish for a worker. Four descriptors come with it: line, lane, board, and its stderr."""

    number: int
    environment: dict[str, str]
    """If there are any, the worker is a fresh interpreter, for they may change what imports do."""
    preload: tuple[str, ...]


class _Forkserver:
    def __init__(self, control: socket.socket, driver_pid: int) -> None:
        self._control = control
        self._children: dict[int, int] = {}  # pid -> number of the worker
        self._pidfds: dict[int, int] = {}  # by pid
        self._poller = select.poll()
        self._poller.register(control, select.POLLIN)
        self._driver_fd = _pidfd(driver_pid)
        if self._driver_fd is not None:
            # The control socket alone would stay open in children that the driver forked.
            self._poller.register(self._driver_fd, select.POLLIN)

    def serve(self) -> None:
        """Until the driver closes its end or dies."""
        while True:
            # Where there are no pidfds, look for the dead twenty times a second.
            for fd, _ in self._poller.poll(None if hasattr(os, "pidfd_open") else 50):
                if fd == self._driver_fd:
                    return
                if fd == self._control.fileno() and not self._obey():
                    return
            self._reap()

    def _obey(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 4)
        except ConnectionResetError:  # it was killed with reports of ours unread
            return False
        if not data:
            return False
        word, *rest = pickle.loads(data)
        if word == "birth":
            self._give_birth(rest[0], fds)
        elif word == "variable":
            _set_variable(*rest)
        elif word == "signal":
            for pid, number in self._children.items():
                if number == rest[0]:
                    _signal_group(pid, rest[1])
        return True

    def _give_birth(self, birth: Birth, fds: list[int]) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(
                "stillborn", birth.number, f"{error.strerror}: no more processes can be made"
            )
            pid = None
        if pid == 0:
            self._become_worker(birth, fds, parent)
        for fd in fds:
            os.close(fd)
        if pid is None:
            return
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # both sides do it, so that it is done whoever is first
        self._children[pid] = birth.number
        pidfd = _pidfd(pid)
        if pidfd is not None:
            self._pidfds[pid] = pidfd
            self._poller.register(pidfd, select.POLLIN)
        self._tell("born", birth.number, pid)

    def _become_worker(self, birth: Birth, fds: list[int], parent: int) -> None:
        """Runs in the child; never returns."""
        code = 1
        try:
            line, lane, board, stderr = fds
            die_with_parent(parent)
            os.setpgid(0, 0)
            os.dup2(stderr, 1)
            os.dup2(stderr, 2)
            os.close(stderr)
            for inherited in [*self._pidfds.values(), self._driver_fd]:
                if inherited is not None:
                    os.close(inherited)
            self._control.close()
            place = WorkerPlace(birth.number, line, lane, board)
            if birth.environment:
                self._exec(birth, place, parent)
            run_to_exit(place)
        except BaseException:
            faulthandler.dump_traceback()
        finally:
            os._exit(code)

    def _exec(self, birth: Birth, place: WorkerPlace, parent: int) -> None:
        os.set_inheritable(place.line_fd, True)
        os.set_inheritable(place.lane_fd, True)
        os.set_inheritable(place.board_fd, True)
        task = {
            "place": asdict(place),
            "parent": parent,
            "preload": birth.preload,
            "path": sys.path,
        }
        code = (
            "import json, sys; task = json.loads(sys.argv[1]); sys.path[:] = task['path']; "
            "from rl.core.runtime.forkserver import worker_main; worker_main(task)"
        )
        os.execve(
            sys.executable,
            [sys.executable, "-c", code, json.dumps(task)],
            {**os.environ, **birth.environment},
        )

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            number = self._children.pop(pid, None)
            if number is not None:
                # What it started ends with it. Until it is reaped, no stranger has its number.
                _signal_group(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if number is None:
                continue  # adopted from a worker
            pidfd = self._pidfds.pop(pid, None)
            if pidfd is not None:
                self._poller.unregister(pidfd)
                os.close(pidfd)
            self._tell("gone", number, status)

    def _tell(self, *message: object) -> None:
        with contextlib.suppress(OSError):
            self._control.send(pickle.dumps(message))

    def clean_up(self) -> None:
        """Kills every descendant."""
        deadline = time.monotonic() + SWEEP_S
        for pid in self._children:
            _signal_group(pid, signal.SIGKILL)
        # What escaped its group came to us as an orphan: kill until none is left.
        while time.monotonic() < deadline:
            for pid in _own_children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.005)


def main(arguments: list[str]) -> None:
    """Entry of the forkserver; the driver starts it with these arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", type=int)
    parser.add_argument("--driver", type=int)
    parser.add_argument("--preload", nargs="*", default=[])
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    control = socket.socket(fileno=options.control)
    server = _Forkserver(control, options.driver)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    preload(options.preload)
    gc.collect()
    gc.freeze()  # else the collector of each worker writes to, and so copies, every page it shares
    try:
        server.serve()
    finally:
        server.clean_up()


def worker_main(task: dict[str, Any]) -> None:
    """Entry of a worker that is a fresh interpreter."""
    die_with_parent(task["parent"])
    preload(task["preload"])
    run_to_exit(WorkerPlace(**task["place"]))


def preload(modules: list[str]) -> None:
    """Imports what workers will want; a module that fails is theirs to complain about."""
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def run_to_exit(place: WorkerPlace) -> None:
    """Runs a worker and ends the process, with the code of its SystemExit or 0."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the driver
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True)
    with contextlib.suppress(OSError):
        # When memory is out, let the kernel choose a worker, which is replaced, not the driver.
        Path("/proc/self/oom_score_adj").write_text("500")
    _reseed()
    code: object = 0
    try:
        run_worker(place)
    except SystemExit as request:
        code = request.code
        if isinstance(code, str):
            sys.stderr.write(code + "\n")
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _reseed() -> None:
    """Forks must not share the global generators, which users' code may use."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None and "numpy.random" in sys.modules:
        numpy.random.seed(int.from_bytes(os.urandom(4), "little"))


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent ends, even if it hangs in native code."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(0)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _prctl(option: int, value: int) -> None:
    if _libc is not None:
        _libc.prctl(option, value, 0, 0, 0)


def _pidfd(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _own_children() -> list[int]:
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:
        return []
    return [int(pid) for pid in text.split()]
