"""What the driver keeps of each actor and of the worker it lives in."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Mapping
from typing import Any

from rl.core.runtime.base import ActorSpec
from rl.core.runtime.board import Board
from rl.core.runtime.calls import CallFuture, StoredObject
from rl.core.runtime.exits import Exit
from rl.core.runtime.line import DriverLine
from rl.core.runtime.memory import Partner, Payload, SegmentBook
from rl.core.runtime.supervisor import Supervisor

__all__ = ["Actor", "Worker"]

TAIL_LINES = 40
"""Last lines of a worker's output that are kept to explain its death; a hang's stacks need the
most."""
LONGEST_LINE = 2_000


class Actor:
    """One actor: how to make it, who decides about it, and where it lives now."""

    def __init__(
        self,
        spec: ActorSpec[Any],
        supervisor: Supervisor,
        maker: tuple[Payload, Payload],
        extras: list[tuple[int | str, CallFuture[Any] | StoredObject[Any]]],
        preload: tuple[str, ...],
    ) -> None:
        self.name = supervisor.name
        self.spec = spec
        self.class_name = spec.class_name
        self.supervisor = supervisor
        self.maker = maker
        """Its class and its arguments, kept to make it anew."""
        self.extras = extras
        """Arguments of the constructor that are results or objects, kept as well."""
        self.preload = preload
        self.worker: Worker | None = None
        self.holds_resources = False

    @property
    def resources(self) -> Mapping[str, float]:
        """What it takes while it lives."""
        return self.spec.resources


class Worker:
    """One process, from the wish for it until it is reaped."""

    def __init__(self, number: int, actor: Actor, book: SegmentBook) -> None:
        self.number = number
        self.actor = actor
        self.incarnation = actor.supervisor.incarnation
        self.pid: int | None = None
        self.connected = False
        with contextlib.ExitStack() as unless_all_is_there:
            self.board = Board.create()
            unless_all_is_there.callback(self.board.close)
            line, line_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            unless_all_is_there.callback(line.close)
            unless_all_is_there.callback(line_end.close)
            self.lane, lane_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            unless_all_is_there.callback(self.lane.close)
            unless_all_is_there.callback(lane_end.close)
            self.output, output_end = os.pipe()
            unless_all_is_there.callback(os.close, self.output)
            unless_all_is_there.callback(os.close, output_end)
            board_end = os.dup(self.board.fd)
            unless_all_is_there.pop_all()
        os.set_blocking(self.output, False)
        self.line = DriverLine(line)
        self.fds_to_give = (line_end.detach(), lane_end.detach(), board_end, output_end)
        self.partner: Partner = book.meet(number, self.lane)
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._partial = b""

    def read_output(self) -> list[str] | None:
        """New whole lines that it wrote; None when nobody can write any more."""
        try:
            data = os.read(self.output, 1 << 16)
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-LONGEST_LINE:]
        texts = [line[-LONGEST_LINE:].decode(errors="replace") for line in lines]
        self._tail.extend(texts)
        return texts

    def exit(self, how: str) -> Exit:
        """Describes its end, with its last lines."""
        while self.read_output():
            pass
        rest = [self._partial.decode(errors="replace")] if self._partial else []
        return Exit(how, self.pid, (*self._tail, *rest))

    def close(self) -> None:
        """Closes what belongs to it here."""
        self.line.close()
        self.lane.close()
        os.close(self.output)
        self.board.close()
