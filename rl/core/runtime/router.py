"""The driver's socket: whole messages to workers and from them, by the identity of each.

Its descriptor tells of news only once, and only a reader that found nothing more is told of the
next message. `drained` says whether that is so.
"""

from __future__ import annotations

import pickle
from typing import Any

import zmq

from rl.core.runtime.board import WINDOW

__all__ = ["Router"]

EVENTS, POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
NOBLOCK, SNDMORE = int(zmq.NOBLOCK), int(zmq.SNDMORE)
"""Plain numbers: pyzmq's enumerations cost microseconds at each message."""
MAX_MESSAGE = 64 * 2**20
"""Large values travel in segments; a frame beyond this is no message of ours."""
HIGH_WATER = 4 * WINDOW
"""Messages per worker: its window of calls, and room for notes. A send therefore never blocks."""


class Router:
    """Used with the reactor's lock held."""

    def __init__(self, address: str) -> None:
        self.drained = False
        """Whether the descriptor will tell of the next message. Not after a use of the socket that
        may have noticed a message without reading it."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self._socket.bind(address)
        self.fd = int(self._socket.FD)

    def send(self, identity: bytes, message: tuple[Any, ...]) -> bool:
        """False when the worker is not there any more.

        A send may notice messages that are on their way here: if there may be any, the caller has
        to take `drained` back.
        """
        data = pickle.dumps(message, protocol=5)
        try:
            self._socket.send(identity, NOBLOCK | SNDMORE)
            self._socket.send(data, NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        return True

    def has_news(self) -> bool:
        """Whether there is a message to read."""
        there = bool(int(self._socket.get(EVENTS)) & POLLIN)
        self.drained = not there
        return there

    def read(self) -> tuple[bytes, tuple[Any, ...]] | None:
        """The next message and whose it is, if there is one."""
        try:
            identity = self._socket.recv(NOBLOCK)
        except zmq.Again:
            return None
        self.drained = False
        return identity, pickle.loads(self._socket.recv(NOBLOCK))

    def close(self) -> None:
        """What was not sent is dropped."""
        self._socket.close(0)
        self._context.term()
