"""How a process ended, in words."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Exit", "describe_status", "out_of_memory_kills"]

_MEANING = {
    "SIGSEGV": "a segmentation fault in native code",
    "SIGABRT": "native code called abort",
    "SIGBUS": "memory that is mapped but not there",
    "SIGFPE": "a division by zero in native code",
    "SIGILL": "an instruction this processor does not have",
}


@dataclass(frozen=True)
class Exit:
    """The end of a worker."""

    how: str
    """`SIGKILL`, `exit code 3`; also what tells one kind of death from another."""
    pid: int | None = None
    last_lines: tuple[str, ...] = ()
    """The last of what it wrote to stderr and stdout."""

    def __str__(self) -> str:
        process = f"process {self.pid}" if self.pid else "its process"
        lines = "".join(f"\n  | {line}" for line in self.last_lines)
        return f"{process} ended: {self.how}." + (f" Its last lines:{lines}" if lines else "")


def describe_status(status: int, *, out_of_memory: bool = False) -> str:
    """Words for a wait status, as `os.waitpid` gives it."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL" and out_of_memory:
        return "SIGKILL (the machine was out of memory: use fewer or smaller actors)"
    return f"{name} ({_MEANING[name]})" if name in _MEANING else name


def out_of_memory_kills(files: Sequence[Path] | None = None) -> int:
    """How many processes the kernel has killed for want of memory, where it tells."""
    for path in files or (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        try:
            text = path.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill" and number.strip().isdigit():
                return int(number)
    return 0
