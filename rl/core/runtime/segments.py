"""Unnamed shared memory that is reused: what arrays travel in.

A segment has one writer, the process that made it. It goes to others by descriptor, once, and stays
mapped there, because the first touch of fresh pages costs ten times the copy into known ones.
Nothing has a name, so nothing is left behind, whatever is killed, and a small /dev/shm does not
matter.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rl.errors import RuntimeFault

__all__ = [
    "Segment",
    "SegmentPool",
    "available_memory",
    "create_memory",
    "owner_of",
    "view_of",
]

Bytes = npt.NDArray[np.uint8]

MAX_FREE_BYTES = 256 * 2**20
"""Free memory a pool keeps for reuse, beyond its newest segments."""
KEPT_ANYWAY = 4
"""Free segments a pool keeps however large: a pipeline of two needs each twice."""
SMALLEST = 64 * 1024
LARGE = 64 * 2**20
"""From here on, asking how much memory there is costs little beside touching it."""
_OWNER_SHIFT = 32
_POPULATE: int = getattr(mmap, "MAP_POPULATE", 0)


class Segment:
    """A piece of shared memory; its descriptor is closed when it is collected, if not before."""

    __slots__ = ("__weakref__", "_memory", "fd", "id", "size", "writable")

    def __init__(self, segment_id: int, fd: int, size: int, *, writable: bool) -> None:
        self.id = segment_id
        self.fd = fd
        self.size = size
        self.writable = writable
        self._memory: mmap.mmap | None = None

    @property
    def memory(self) -> mmap.mmap:
        """The mapping, made at the first use: whoever only passes a segment on never maps it."""
        if self._memory is None:
            access = mmap.PROT_READ | (mmap.PROT_WRITE if self.writable else 0)
            self._memory = mmap.mmap(
                self.fd, self.size, flags=mmap.MAP_SHARED | _POPULATE, prot=access
            )
        return self._memory

    def close(self) -> None:
        """Closes the descriptor. The mapping goes with the last array that lies in it."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
        self._memory = None

    def __del__(self) -> None:
        self.close()


class SegmentPool:
    """The segments one process writes. Safe to use from several threads."""

    def __init__(self, owner: int) -> None:
        self._owner = owner
        self._made = 0
        self._lock = threading.Lock()
        self._lent: dict[int, Segment] = {}
        self._free: dict[int, Segment] = {}  # oldest first

    def take(self, num_bytes: int) -> Segment:
        """A segment of at least that size. Raises `RuntimeFault` when memory is out."""
        with self._lock:
            fitting = [
                s for s in self._free.values() if num_bytes <= s.size <= 2 * num_bytes + SMALLEST
            ]
            if fitting:
                segment = min(fitting, key=lambda s: s.size)
                del self._free[segment.id]
            else:
                self._made += 1
                size = _rounded(num_bytes)
                segment_id = self._owner << _OWNER_SHIFT | self._made
                segment = Segment(segment_id, create_memory(size), size, writable=True)
            self._lent[segment.id] = segment
            return segment

    def give_back(self, segment_id: int) -> list[int]:
        """Nobody reads it any more. Returns the ids of segments that were closed to save memory."""
        with self._lock:
            self._free[segment_id] = self._lent.pop(segment_id)
            retired: list[int] = []
            free_bytes = sum(segment.size for segment in self._free.values())
            while len(self._free) > KEPT_ANYWAY and free_bytes > MAX_FREE_BYTES:
                oldest = self._free.pop(next(iter(self._free)))
                free_bytes -= oldest.size
                oldest.close()
                retired.append(oldest.id)
            return retired

    def lent(self, segment_id: int) -> Segment:
        """A segment that was taken and not given back."""
        return self._lent[segment_id]

    def close(self) -> None:
        """Lets go of every segment; one that somebody still holds lives on with its holder."""
        with self._lock:
            self._lent.clear()
            self._free.clear()


def owner_of(segment_id: int) -> int:
    """The owner that the id was made with: 0 for the driver, else the number of a worker."""
    return segment_id >> _OWNER_SHIFT


_watched: dict[int, weakref.ref[Any]] = {}


def view_of(segment: Segment, on_release: Callable[[], object]) -> Bytes:
    """The whole segment as a read-only array; `on_release()` once nothing refers to it."""
    array: Bytes = np.frombuffer(segment.memory, dtype=np.uint8)
    array.flags.writeable = False

    def released(watch: weakref.ref[Any]) -> None:
        _watched.pop(id(watch), None)
        on_release()

    watch = weakref.ref(array, released)
    _watched[id(watch)] = watch
    return array


def create_memory(size: int) -> int:
    """A descriptor of `size` bytes of fresh shared memory that has no name.

    The pages are reserved now: a machine without room says so here, not with SIGBUS at some later
    write.
    """
    if size > LARGE and size > available_memory():
        # The kernel would try, and kill some process on the way.
        raise _no_memory(size, "this machine has less available")
    try:
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("rl-segment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            fd, path = tempfile.mkstemp(prefix="rl-segment-")
            Path(path).unlink()
    except OSError as error:
        raise _no_memory(size, error.strerror or str(error)) from error
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            os.ftruncate(fd, size)
        if hasattr(os, "memfd_create"):
            # A reader maps it for good: that it cannot shrink under the reader is the kernel's
            # promise.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except OSError as error:
        os.close(fd)
        raise _no_memory(size, error.strerror or str(error)) from error
    return fd


def available_memory() -> float:
    """Bytes that can be had without swapping; infinite where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024.0 * float(kilobytes[0]) if kilobytes else float("inf")


def _no_memory(size: int, reason: str) -> RuntimeFault:
    return RuntimeFault(
        f"no shared memory for an array of {size / 2**20:.0f} MiB: {reason}. Send less at "
        "a time, hold fewer results, or give the process more memory and descriptors (ulimit -n)."
    )


def _rounded(num_bytes: int) -> int:
    """Up to the next of four steps per doubling: sizes that vary a little share segments."""
    size = max(num_bytes, SMALLEST)
    step = 1 << max(size.bit_length() - 3, 12)
    return -(-size // step) * step
