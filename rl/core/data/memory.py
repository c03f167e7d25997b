"""How much memory is left, and whether a replay buffer goes into it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rl.core.data.replay import ReplayBuffer
from rl.core.data.spaces import Spaces
from rl.errors import UsageError

__all__ = ["available_memory", "check_replay_fits"]

MEMINFO = Path("/proc/meminfo")
LIMIT = Path("/sys/fs/cgroup/memory.max")
USED = Path("/sys/fs/cgroup/memory.current")


def available_memory() -> int | None:
    """Bytes this process may still take, the limit of its container included; None: unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError):  # not Linux
        lines = MEMINFO.read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # no container, or none with a limit
        found.append(max(0, int(LIMIT.read_text()) - int(USED.read_text())))
    return min(found, default=None)


def check_replay_fits(
    kind: type[ReplayBuffer], spaces: Spaces, size: int, memory_size: int = 0
) -> None:
    """Raises `UsageError` where `size` transitions do not fit: now, rather than hours later."""
    needed, available = kind.bytes_needed(spaces, size, memory_size), available_memory()
    if available is not None and needed > available:
        most = size * available // needed
        raise UsageError(
            f"buffer_size {size}: its transitions need {needed / 1e9:.1f} GB of memory, and"
            f" {available / 1e9:.1f} GB are free here; write {most // 10 * 9} or less"
        )
