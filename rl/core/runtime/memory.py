"""The driver's book of segments: who made each, who has it mapped, who still reads it.

The driver passes descriptors on and counts readers; it maps a segment only when it reads one
itself. A segment goes back to its maker when the last `SegmentRef` is gone: the futures, queued
calls and arrays here hold one each, and each loan to a worker does, until the worker says that it
let go or is reaped.
"""

from __future__ import annotations

import contextlib
import socket
from collections import defaultdict, deque
from typing import Any

from rl.core.runtime import wire
from rl.core.runtime.segments import Bytes, Segment, SegmentPool, owner_of, view_of
from rl.core.runtime.wire import Blob, segment_in, unpack
from rl.core.runtime.worker import ANNOUNCEMENT

__all__ = ["NOTHING", "Payload", "SegmentBook", "SegmentRef"]

DRIVER = 0


class SegmentRef:
    """Keeps the contents of a segment; lets go when it is collected."""

    __slots__ = ("_dropped", "segment")

    def __init__(self, segment: Segment, dropped: deque[int]) -> None:
        self.segment = segment
        self._dropped = dropped

    @property
    def id(self) -> int:
        """Of the segment."""
        return self.segment.id

    def __del__(self) -> None:
        # May run in any thread, at any point of any code: only note it.
        self._dropped.append(self.segment.id)


class Payload:
    """A value on its way: its blob, and what keeps the blob's segment."""

    __slots__ = ("blob", "ref")

    def __init__(self, blob: Blob, ref: SegmentRef | None) -> None:
        self.blob = blob
        self.ref = ref

    def open(self) -> Any:
        """The value, its arrays read-only and without a copy; they keep the segment."""
        return unpack(self.blob, self._view)

    def _view(self, segment_id: int) -> Bytes:
        assert self.ref is not None
        holder = [self.ref]
        return view_of(self.ref.segment, holder.clear)


NOTHING = Payload(wire.NOTHING, None)
"""None, shared by all who say it."""


class Partner:
    """What the book knows of one worker."""

    def __init__(self, number: int, lane: socket.socket) -> None:
        self.number = number
        self.lane = lane
        self.known: set[int] = set()
        self.loans: dict[int, list[SegmentRef]] = defaultdict(list)
        self.frees: list[int] = []
        self.forgets: list[int] = []

    def notes(self) -> tuple[tuple[int, ...], ...]:
        """Takes what it is to be told: its segments that are free, and others' to forget.

        Empty when there is nothing.
        """
        if not self.frees and not self.forgets:
            return ()
        frees, forgets = tuple(self.frees), tuple(self.forgets)
        self.frees, self.forgets = [], []
        return frees, forgets


class SegmentBook:
    """All segments of one runtime. Used with the reactor's lock held, but for `pool`."""

    def __init__(self) -> None:
        self.pool = SegmentPool(DRIVER)
        self._partners: dict[int, Partner] = {}
        self._foreign: dict[int, Segment] = {}
        self._used: set[int] = set()
        self._dropped: deque[int] = deque()

    def meet(self, number: int, lane: socket.socket) -> Partner:
        """A worker is born."""
        partner = self._partners[number] = Partner(number, lane)
        return partner

    def part(self, number: int) -> None:
        """A worker is reaped: it reads and writes no more, so what was lent to it comes back."""
        partner = self._partners.pop(number, None)
        if partner is None:
            return
        partner.loans.clear()
        for segment_id in [
            i for i in self._foreign if owner_of(i) == number and i not in self._used
        ]:
            self._discard(segment_id)

    def keep(self, blob: Blob) -> Payload:
        """Holds a blob that was packed here."""
        segment_id = segment_in(blob)
        if segment_id is None:
            return Payload(blob, None)
        return Payload(blob, SegmentRef(self._segment(segment_id), self._dropped))

    def receive(self, partner: Partner, blob: Blob) -> Payload:
        """Holds a blob that came from a worker; fetches the descriptor if it is a new segment."""
        segment_id = segment_in(blob)
        if segment_id is not None:
            while segment_id not in self._foreign:
                data, fds, _, _ = socket.recv_fds(partner.lane, ANNOUNCEMENT.size, 1)
                announced, size = ANNOUNCEMENT.unpack(data)
                self._foreign[announced] = Segment(announced, fds[0], size, writable=False)
            self._used.add(segment_id)
        return self.keep(blob)

    def lend(self, partner: Partner, payload: Payload) -> Blob:
        """Makes sure that the worker can read a blob about to be sent to it."""
        if payload.ref is not None:
            segment_id = payload.ref.id
            if segment_id not in partner.known:
                segment = payload.ref.segment
                announcement = ANNOUNCEMENT.pack(segment_id, segment.size)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    # Its launcher tells of the dead, and what was sent to them is sent again.
                    socket.send_fds(partner.lane, [announcement], [segment.fd])
                partner.known.add(segment_id)
            partner.loans[segment_id].append(payload.ref)
        return payload.blob

    def returned(
        self, partner: Partner, released: tuple[int, ...], retired: tuple[int, ...]
    ) -> None:
        """A worker let go of what it was lent, and closed some segments of its own."""
        for segment_id in released:
            partner.loans[segment_id].pop()
            if not partner.loans[segment_id]:
                del partner.loans[segment_id]
        for segment_id in retired:
            self._discard(segment_id)

    def settle(self) -> None:
        """Gives back what was dropped; workers are told by their `Partner.notes`."""
        while self._dropped:
            segment_id = self._dropped.popleft()
            owner = owner_of(segment_id)
            if owner == DRIVER:
                for retired in self.pool.give_back(segment_id):
                    self._forget(retired)
                continue
            self._used.discard(segment_id)
            partner = self._partners.get(owner)
            if partner is not None:
                partner.frees.append(segment_id)
            else:
                self._discard(segment_id)

    def close(self) -> None:
        """Lets go of every segment. What futures and arrays still hold stays readable."""
        self.pool.close()
        self._foreign.clear()
        self._dropped.clear()

    def _segment(self, segment_id: int) -> Segment:
        if owner_of(segment_id) == DRIVER:
            return self.pool.lent(segment_id)
        return self._foreign[segment_id]

    def _discard(self, segment_id: int) -> None:
        segment = self._foreign.pop(segment_id, None)
        if segment is not None:
            segment.close()
        self._forget(segment_id)

    def _forget(self, segment_id: int) -> None:
        for partner in self._partners.values():
            if segment_id in partner.known:
                partner.known.remove(segment_id)
                partner.forgets.append(segment_id)
