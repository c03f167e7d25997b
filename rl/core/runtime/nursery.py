"""Starts the process that workers are born from; also before there is a runtime that wants it.

A forkserver imports for a third of a second. Whoever knows early that workers will be needed calls
`begin`, and has that time pass while he imports and looks around himself.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["LIGHT", "ONE_THREAD", "Forkserver", "begin", "begun", "drop", "take"]

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
END_S = 4.0
"""The forkserver sweeps for at most three seconds."""


@dataclass
class Forkserver:
    """A process, and the socket it obeys."""

    preload: tuple[str, ...]
    """Modules it imports besides `LIGHT`."""
    control: socket.socket
    process: subprocess.Popen[bytes]
    pid: int = field(default_factory=os.getpid)
    """Of its driver."""
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    """Of the driver when it was started."""

    @classmethod
    def start(cls, preload: Sequence[str]) -> Forkserver:
        """Returns at once. Raises `OSError`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                process = subprocess.Popen(
                    _command([*LIGHT, *preload], theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # out of reach of the terminal's Ctrl-C
                    env={**os.environ, **dict.fromkeys(ONE_THREAD, "1")},
                )
            except OSError:
                ours.close()
                raise
        return cls(tuple(preload), ours, process)

    def changes(self) -> dict[str, str | None]:
        """Environment variables that the driver has set since, or removed: then None.

        An import may do that, and what it sets is meant for other imports.
        """
        return {
            name: os.environ.get(name)
            for name in {*self.environment, *os.environ} - {*ONE_THREAD}
            if self.environment.get(name) != os.environ.get(name)
        }

    def end(self) -> None:
        """Ends it, every worker and every descendant; returns when all are gone."""
        self.control.close()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_spare: list[Forkserver] = []
"""At most one, which no runtime has taken yet."""


def begin(preload: Sequence[str]) -> None:
    """Starts a forkserver for the next runtime with processes, unless one waits already."""
    if not _spare:
        with contextlib.suppress(OSError):  # whoever needs it tries again, and says why
            _spare.append(Forkserver.start(preload))


def take(preload: Sequence[str]) -> Forkserver | None:
    """The one that was begun, if it lives and has these modules; then it is no spare any more."""
    if not _spare or _spare[0].pid != os.getpid():
        return None
    spare = _spare.pop()
    if {*preload} <= {*spare.preload} and spare.process.poll() is None:
        return spare
    spare.end()
    return None


@contextlib.contextmanager
def begun(preload: Sequence[str]) -> Iterator[None]:
    """As `begin`; whatever nobody has taken until the end is ended."""
    begin(preload)
    try:
        yield
    finally:
        drop()


def drop() -> None:
    """Ends the one that was begun, if nobody has taken it; a runtime that ends calls this.

    It was begun for that runtime, which may have ended before its first worker.
    """
    if _spare and _spare[0].pid == os.getpid():
        _spare.pop().end()


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
