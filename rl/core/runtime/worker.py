"""The process behind an actor: makes it, then runs its calls, one at a time, in order.

A worker talks to the driver only: by messages over its `line`, and over its `lane`, which carries
the descriptors of segments and whose other end closes when the driver dies.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rl.core.runtime.board import Board, use_board
from rl.core.runtime.line import WorkerLine
from rl.core.runtime.segments import Bytes, Segment, SegmentPool, view_of
from rl.core.runtime.wire import NOTHING, Blob, Kind, Outcome, pack, pack_error, segment_in, unpack

__all__ = ["ANNOUNCEMENT", "WorkerPlace", "enter", "key_of", "run_worker"]

ANSWER, CALL, CALLS = Kind.ANSWER.value, Kind.CALL.value, Kind.CALLS.value
ANNOUNCEMENT = struct.Struct("=QQ")
"""Goes over the lane beside each descriptor: id and size of the segment."""
NO_ARGUMENTS: tuple[Sequence[Any], dict[str, Any]] = ((), {})


@dataclass(frozen=True)
class WorkerPlace:
    """Where a worker finds what it needs."""

    number: int
    """Unique among all workers of the runtime, never used again."""
    line_fd: int
    lane_fd: int
    board_fd: int


def run_worker(place: WorkerPlace) -> None:
    """Serves until told to stop; then returns. Ends the process when the driver is gone."""
    worker = _Worker(place)
    threading.Thread(
        target=_end_with, args=(place.lane_fd,), name="rl-life-line", daemon=True
    ).start()
    worker.serve()


def _end_with(lane_fd: int) -> None:
    # No events asked for: poll then returns at a hang-up only, and leaves descriptors to the other
    # thread.
    poller = select.poll()
    poller.register(lane_fd, 0)
    poller.poll()
    os._exit(0)


class _Worker:
    def __init__(self, place: WorkerPlace) -> None:
        self._line = WorkerLine(place.line_fd)
        self._lane = socket.socket(fileno=place.lane_fd)
        self._board = Board(place.board_fd)
        use_board(self._board)
        self._pool = SegmentPool(place.number)
        self._announced: set[int] = set()
        self._foreign: dict[int, Segment] = {}
        self._released: list[int] = []
        self._retired: list[int] = []
        self._actor: Any = None
        self._name = "actor"

    def serve(self) -> None:
        self._send((Kind.HELLO.value,))
        while messages := self._line.read():
            for message in messages:
                if not self._obey(message):
                    self._actor = None
                    self._line.close()
                    return

    def _obey(self, message: tuple[Any, ...]) -> bool:
        """False when it shall stop."""
        kind = message[0]
        if kind == CALL:
            self._call(*message[1:])
        elif kind == CALLS:
            for call in message[1]:
                self._call(*call[1:])
        elif kind == Kind.NOTE:
            self._note(*message[1:])
        elif kind == Kind.CONSTRUCT:
            self._construct(*message[1:])
        return bool(kind != Kind.STOP)

    def _construct(
        self,
        name: str,
        maker: Blob,
        arguments: Blob,
        extras: tuple[tuple[int | str, Blob], ...],
        where: tuple[str, list[str]],
    ) -> None:
        self._name = name
        try:
            enter(*where)
            actor_class = self._unpack(maker)
            args, kwargs = self._arguments(arguments, extras)
            self._actor = actor_class(*args, **kwargs)
        except Exception as error:
            key = key_of(error)
            blob = pack_error(error, self._pool.take)
            del error
            self._send_with((Kind.CONSTRUCTION_FAILED.value, key), blob)
            return
        self._send((Kind.CONSTRUCTED.value,))

    def _call(
        self,
        number: int,
        method: str,
        arguments: Blob | None = None,
        extras: tuple[tuple[int | str, Blob], ...] = (),
        frees: tuple[int, ...] = (),
        forgets: tuple[int, ...] = (),
    ) -> None:
        if frees or forgets:
            self._note(frees, forgets)
        if self._board.begin(number):
            outcome, blob = self._run(method, arguments, extras)
        else:
            self._pass_over(arguments, extras)
            outcome, blob = Outcome.SKIPPED, NOTHING
        if blob is NOTHING and not self._released and not self._retired:
            self._send((ANSWER, number))
        else:
            self._send_with((ANSWER, number, outcome.value), blob)

    def _run(
        self, method: str, arguments: Blob | None, extras: tuple[tuple[int | str, Blob], ...]
    ) -> tuple[Outcome, Blob]:
        bound = getattr(self._actor, method, None)
        if not callable(bound):
            self._pass_over(arguments, extras)
            names = [word for word in dir(self._actor) if not word.startswith("_")]
            return Outcome.UNKNOWN_METHOD, pack(names, self._pool.take)
        try:
            args, kwargs = NO_ARGUMENTS if arguments is None else self._arguments(arguments, extras)
        except Exception as error:
            return Outcome.ARGUMENT_STUCK, pack_error(error, self._pool.take)
        try:
            result = bound(*args, **kwargs)
        except SystemExit:
            raise
        except BaseException as error:
            return Outcome.RAISED, pack_error(error, self._pool.take)
        try:
            return Outcome.RETURNED, pack(result, self._pool.take)
        except Exception as error:
            return Outcome.RESULT_STUCK, pack_error(error, self._pool.take)

    def _arguments(
        self, arguments: Blob, extras: tuple[tuple[int | str, Blob], ...]
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        blobs = [arguments, *(blob for _, blob in extras)]
        try:
            args, kwargs = self._unpack(blobs.pop(0))
            args = list(args)
            for place, _ in extras:
                value = self._unpack(blobs.pop(0))
                if isinstance(place, int):
                    args[place] = value
                else:
                    kwargs[place] = value
        finally:
            for blob in blobs:
                self._pass_over(blob)
        return args, kwargs

    # Memory

    def _unpack(self, blob: Blob) -> Any:
        return unpack(blob, self._view)

    def _view(self, segment_id: int) -> Bytes:
        while segment_id not in self._foreign:
            self._receive_segment()
        return view_of(self._foreign[segment_id], lambda: self._released.append(segment_id))

    def _pass_over(
        self, blob: Blob | None, extras: tuple[tuple[int | str, Blob], ...] = ()
    ) -> None:
        """Gives back what was sent and not looked at."""
        for passed in (blob, *(extra for _, extra in extras)):
            segment_id = segment_in(passed) if passed is not None else None
            if segment_id is not None:
                self._released.append(segment_id)

    def _receive_segment(self) -> None:
        data, fds, _, _ = socket.recv_fds(self._lane, ANNOUNCEMENT.size, 1)
        segment_id, size = ANNOUNCEMENT.unpack(data)
        self._foreign[segment_id] = Segment(segment_id, fds[0], size, writable=False)

    def _note(self, frees: tuple[int, ...], forgets: tuple[int, ...]) -> None:
        for segment_id in frees:
            self._retired.extend(self._pool.give_back(segment_id))
        for segment_id in forgets:
            while segment_id not in self._foreign:
                self._receive_segment()
            self._foreign.pop(segment_id).close()

    def _send_with(self, head: tuple[Any, ...], blob: Blob) -> None:
        """Sends a message with a blob; a new descriptor goes first, to be there when it is."""
        segment_id = segment_in(blob)
        if segment_id is not None and segment_id not in self._announced:
            segment = self._pool.lent(segment_id)
            announcement = ANNOUNCEMENT.pack(segment_id, segment.size)
            socket.send_fds(self._lane, [announcement], [segment.fd])
            self._announced.add(segment_id)
        released, self._released = self._released, []
        retired, self._retired = self._retired, []
        self._announced.difference_update(retired)
        self._send((*head, blob, tuple(released), tuple(retired)))

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            self._line.send(message)
        except OSError:  # the driver is gone, and so is the purpose
            os._exit(0)


def enter(directory: str, path: list[str]) -> None:
    """Looks for modules where the driver does."""
    known = set(sys.path)
    sys.path.extend(entry for entry in path if entry not in known)
    with contextlib.suppress(OSError):
        os.chdir(directory)


def key_of(error: BaseException) -> str:
    """What tells one failure from another: its type and the line that raised it."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "?"
    return f"{type(error).__name__} at {place}"


class TaskRunner:
    """The actor that stateless tasks run on."""

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Calls the function."""
        return function(*args, **kwargs)
