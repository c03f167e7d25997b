"""Whole messages over one stream socket: the length of each, then its pickle.

A message from one process to another costs one system call on each side, and wakes only its reader.
"""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any

__all__ = ["DriverLine", "WorkerLine"]

MAX_MESSAGE = 64 * 2**20
"""Large values travel in segments; a frame beyond this is no message of ours."""
_HEAD = struct.Struct("=I")
_READ = 64 * 1024
"""Bytes asked for at once; many small messages come with one call."""


class _Frames:
    """Cuts what comes off a stream into messages."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def cut(self, data: bytes) -> list[tuple[Any, ...]]:
        """The messages that are whole now. Raises `ValueError` for one that is none of ours."""
        self._rest += data
        messages: list[tuple[Any, ...]] = []
        start, end = 0, len(self._rest)
        with memoryview(self._rest) as view:
            while end - start >= _HEAD.size:
                (length,) = _HEAD.unpack_from(view, start)
                if length > MAX_MESSAGE:
                    raise ValueError(f"a message of {length} bytes")
                stop = start + _HEAD.size + length
                if stop > end:
                    break
                messages.append(pickle.loads(view[start + _HEAD.size : stop]))
                start = stop
        del self._rest[:start]
        return messages


def _framed(message: tuple[Any, ...]) -> bytes:
    body = pickle.dumps(message, protocol=5)
    return _HEAD.pack(len(body)) + body


class DriverLine:
    """The driver's end; it never blocks. Used with the reactor's lock held."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._frames = _Frames()
        self._unsent = bytearray()
        self.fd = end.fileno()

    def send(self, message: tuple[Any, ...]) -> bool:
        """False when some of it has to wait until the descriptor can be written to again."""
        frame = _framed(message)
        if self._unsent:
            self._unsent += frame
            return False
        sent = self._try(frame)
        if sent == len(frame):
            return True
        self._unsent += memoryview(frame)[sent:]
        return False

    def flush(self) -> bool:
        """Sends what waits; False when some still does. What the dead are sent is dropped."""
        del self._unsent[: self._try(self._unsent)]
        return not self._unsent

    def read(self) -> list[tuple[Any, ...]] | None:
        """What has come, perhaps nothing yet; None when nothing more will.

        Raises `ValueError` when it is not a message.
        """
        try:
            data = self._socket.recv(_READ, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return self._frames.cut(data) if data else None

    def _try(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:  # its launcher tells of the dead
            return len(data)

    def close(self) -> None:
        """What was not sent is dropped."""
        self._socket.close()


class WorkerLine:
    """The worker's end; it blocks."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._frames = _Frames()

    def send(self, message: tuple[Any, ...]) -> None:
        """Raises `OSError` when the driver is gone."""
        self._socket.sendall(_framed(message))

    def read(self) -> list[tuple[Any, ...]]:
        """At least one message; none when the driver is gone."""
        while True:
            try:
                data = self._socket.recv(_READ)
            except ConnectionResetError:
                return []
            if not data:
                return []
            messages = self._frames.cut(data)
            if messages:
                return messages

    def close(self) -> None:
        """What was sent is still delivered."""
        self._socket.close()
