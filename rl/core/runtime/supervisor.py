"""The life of one actor as a state machine: events in, instructions out.

No socket, clock or process is inside: time is an argument, and whoever drives it does what the
instructions say and reports what happened. So every order of crashes is an ordinary unit test.

    WAITING  --Begin-->  STARTING  --WorkerUp-->  CONSTRUCTING  --Constructed-->  ALIVE
                            ^                                                      |
                            |  Tick, when the back-off is over      WorkerGone     v
                            +---------------------------------------------  BACKING_OFF
    any state  --killed, budget spent, constructor raised-->  ENDED

An incarnation is one process of the actor. Messages of another incarnation than the present one are
dropped and counted. When a worker is gone, every call made before that fails; calls made later wait
for the next incarnation.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rl.core.runtime.board import WINDOW
from rl.core.runtime.events import (
    Answered,
    BecameReady,
    Begin,
    Call,
    CancelAsked,
    Construct,
    Constructed,
    ConstructionFailed,
    Deliver,
    DumpStacks,
    End,
    Event,
    Fail,
    Instruction,
    KillAsked,
    KillWorker,
    Over,
    Send,
    StartWorker,
    Submitted,
    Tick,
    Warn,
    Withdrawn,
    WorkerGone,
    WorkerUp,
)
from rl.core.runtime.failures import cancelled, killed
from rl.errors import ActorDied, RestartsExhausted

__all__ = ["Phase", "Policy", "Supervisor"]


FROM_OUTSIDE = "SIGKILL"
"""No program ends itself so: an operator does, or the kernel when memory is out."""
REFILL_AT = WINDOW // 2
"""A full window is filled up again from here, in one go: many small messages cost more than one
large."""


@dataclass(frozen=True)
class Policy:
    """How much patience an actor gets. Times in seconds."""

    max_restarts: int = 0
    """Within `restart_window`."""
    restart_window: float = 600.0
    step_timeout: float | None = None
    """Without progress in a call."""
    start_timeout: float = 120.0
    """For a process to start and the constructor to run."""
    first_delay: float = 0.1
    """Before the next start, after a life in which no call was completed; doubles with each such
    life."""
    longest_delay: float = 30.0
    same_failure_limit: int = 3
    """Lives in a row that end alike with no call completed: then it would only happen again. A
    SIGKILL is no such end, it comes from outside: `max_restarts` alone bounds those."""
    dump_grace: float = 0.3
    """Between asking a hung worker for its stacks and killing it."""
    late_tick: float = 2.0
    """A gap between ticks that means that we ourselves slept (a suspended machine): no worker's
    fault."""


class Phase(enum.Enum):
    """Where in its life an actor is."""

    WAITING = "waiting for resources"
    STARTING = "starting its process"
    CONSTRUCTING = "in its constructor"
    ALIVE = "alive"
    BACKING_OFF = "waiting to be restarted"
    ENDED = "ended"


_WITH_WORKER = (Phase.STARTING, Phase.CONSTRUCTING, Phase.ALIVE)


class Supervisor:
    """Decides for one actor; see the module."""

    def __init__(self, name: str, policy: Policy) -> None:
        self.name = name
        self.phase = Phase.WAITING
        self.incarnation = 0
        """Number of the present process, from 0; also how often it was restarted."""
        self.stale = 0
        """Messages dropped because they came from another incarnation, or for a call long
        settled."""
        self._policy = policy
        self._queued: deque[Call] = deque()
        self._under_way: dict[int, Call] = {}  # in the order of sending, which is that of answers
        self._full = False
        self._sent = 0
        self._restarts: deque[float] = deque()
        self._ending: Callable[[], BaseException] | None = None
        self._has_worker = False
        self._completed = 0  # calls of this incarnation
        self._ever_constructed = False
        self._failures: list[str | None] = []
        """Of the last lives in a row that completed no call; None for one ended from outside."""
        self._construction_error: ConstructionFailed | None = None
        self._since = 0.0  # when what we wait for now began: the start, or the call under way
        self._last_tick: float | None = None
        self._hung: str | None = None
        self._kill_at: float | None = None
        self._restart_at = 0.0
        self._warned = False
        self._handlers: dict[type, Callable[..., list[Instruction]]] = {
            Answered: self._answered,
            BecameReady: self._became_ready,
            Begin: self._begin,
            CancelAsked: self._cancel_asked,
            Constructed: self._constructed,
            ConstructionFailed: self._construction_failed,
            End: self._end,
            KillAsked: self._kill_asked,
            Submitted: self._submitted,
            Tick: self._tick,
            Withdrawn: self._withdrawn,
            WorkerGone: self._worker_gone,
            WorkerUp: self._worker_up,
        }

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """What to do about `event`, in this order."""
        return self._handlers[type(event)](event, now)

    @property
    def busy(self) -> bool:
        """Whether ticks matter now."""
        if self.phase is Phase.ALIVE:
            return bool(self._under_way)
        return self.phase in (Phase.STARTING, Phase.CONSTRUCTING, Phase.BACKING_OFF)

    # Calls

    def _submitted(self, event: Submitted, now: float) -> list[Instruction]:
        if self._ending is not None:
            return [Fail(event.call, self._ending())]
        self._queued.append(event.call)
        return self._sendable(now)

    def _became_ready(self, event: BecameReady, now: float) -> list[Instruction]:
        event.call.ready = True
        return self._sendable(now)

    def _withdrawn(self, event: Withdrawn, now: float) -> list[Instruction]:
        if event.call not in self._queued:
            return []
        self._queued.remove(event.call)
        return [Fail(event.call, event.error), *self._sendable(now)]

    def _cancel_asked(self, event: CancelAsked, now: float) -> list[Instruction]:
        return self._withdrawn(Withdrawn(event.call, cancelled(self.name, event.call.method)), now)

    def _answered(self, event: Answered, now: float) -> list[Instruction]:
        # An answer of a worker that was found to hang comes too late: it is being killed.
        present = event.incarnation == self.incarnation and self._hung is None
        call = self._under_way.pop(event.number, None) if present else None
        if call is None:
            self.stale += 1
            return []
        self._since, self._warned = now, False
        self._completed += 1
        return [Deliver(call, event.answer), *self._sendable(now)]

    def _sendable(self, now: float) -> list[Instruction]:
        if self.phase is not Phase.ALIVE or self._hung is not None:
            return []
        if self._full and len(self._under_way) > REFILL_AT:
            return []
        self._full = False
        out: list[Instruction] = []
        while self._queued and self._queued[0].ready:
            if len(self._under_way) >= WINDOW:
                self._full = True
                break
            call = self._queued.popleft()
            if not self._under_way:
                self._since, self._warned = now, False
            self._sent += 1
            call.number = self._sent
            self._under_way[call.number] = call
            out.append(Send(call))
        return out

    def _fail_all(self, error: Callable[[], BaseException]) -> list[Instruction]:
        calls = [*self._under_way.values(), *self._queued]
        self._under_way.clear()
        self._queued.clear()
        return [Fail(call, error()) for call in calls]

    # Life

    def _begin(self, event: Begin, now: float) -> list[Instruction]:
        if self.phase is not Phase.WAITING:
            return []
        return self._start(now)

    def _start(self, now: float) -> list[Instruction]:
        self.phase = Phase.STARTING
        self._has_worker = True
        self._completed, self._hung, self._kill_at = 0, None, None
        self._construction_error = None
        self._since, self._warned = now, False
        return [StartWorker(self.incarnation)]

    def _worker_up(self, event: WorkerUp, now: float) -> list[Instruction]:
        if event.incarnation != self.incarnation or self.phase is not Phase.STARTING:
            self.stale += 1
            return []
        self.phase = Phase.CONSTRUCTING
        return [Construct(self.incarnation)]

    def _constructed(self, event: Constructed, now: float) -> list[Instruction]:
        if event.incarnation != self.incarnation or self.phase is not Phase.CONSTRUCTING:
            self.stale += 1
            return []
        self.phase = Phase.ALIVE
        self._ever_constructed = True
        return self._sendable(now)

    def _construction_failed(self, event: ConstructionFailed, now: float) -> list[Instruction]:
        if event.incarnation != self.incarnation or self.phase is not Phase.CONSTRUCTING:
            self.stale += 1
            return []
        self._construction_error = event
        if not self._ever_constructed:
            # It never worked, so it is wrong, not unlucky: starting it again would only fail again.
            return [*self._finish(event.error), KillWorker(self.incarnation)]
        return [KillWorker(self.incarnation)]

    def _worker_gone(self, event: WorkerGone, now: float) -> list[Instruction]:
        if event.incarnation != self.incarnation or not self._has_worker:
            self.stale += 1
            return []
        self._has_worker = False
        if self.phase is Phase.ENDED:
            return [Over()]
        how = self._hung or event.exit.how
        text = f"actor {self.name!r}: {self._hung + '; ' if self._hung else ''}{event.exit}"
        failed = self._construction_error
        outside = not failed and not self._hung and how.startswith(FROM_OUTSIDE)
        key = None if outside else failed.key if failed else how
        self._failures = [] if self._completed else self._failures
        if not self._completed:
            self._failures.append(key)
        reason = self._reason_to_give_up(now)
        if reason is not None:
            error = failed.error if failed else _given_up(text, reason, self._policy.max_restarts)
            return [*self._finish(error), Over()]
        out = self._fail_all(failed.error if failed else lambda: _died(text))
        self._restarts.append(now)
        self.incarnation += 1
        delay = self._delay()
        self._restart_at = now + delay
        self.phase = Phase.BACKING_OFF
        budget = f"{len(self._restarts)} of {self._policy.max_restarts} restarts"
        out.append(Warn(f"{text} Restarting in {delay:.1f} s ({budget})."))
        return [*out, *self._start(now)] if delay == 0 else out

    def _reason_to_give_up(self, now: float) -> str | None:
        policy = self._policy
        while self._restarts and now - self._restarts[0] > policy.restart_window:
            self._restarts.popleft()
        if policy.max_restarts == 0:
            return "It has no restarts: give spawn(max_restarts=...) to have it replaced."
        last = [key for key in self._failures if key is not None][-policy.same_failure_limit :]
        if len(last) == policy.same_failure_limit and len(set(last)) == 1:
            return (
                f"That was the same end {policy.same_failure_limit} times in a row, with no call "
                "completed in between; another start would end alike. Mend what ends it."
            )
        if len(self._restarts) >= policy.max_restarts:
            return (
                f"It was restarted {len(self._restarts)} times within "
                f"{policy.restart_window / 60:g} minutes, which is its budget. Mend what ends it, "
                "or raise max_restarts."
            )
        return None

    def _delay(self) -> float:
        if not self._failures:
            return 0.0
        policy = self._policy
        doublings = min(len(self._failures) - 1, 32)
        return min(policy.first_delay * 2.0**doublings, policy.longest_delay)

    def _kill_asked(self, event: KillAsked, now: float) -> list[Instruction]:
        return self._end(End(lambda: killed(self.name)), now)

    def _end(self, event: End, now: float) -> list[Instruction]:
        if self.phase is Phase.ENDED:
            return []
        out = self._finish(event.error)
        return [*out, KillWorker(self.incarnation)] if self._has_worker else [*out, Over()]

    def _finish(self, error: Callable[[], BaseException]) -> list[Instruction]:
        self.phase = Phase.ENDED
        self._ending = error
        return self._fail_all(error)

    # Time

    def _tick(self, event: Tick, now: float) -> list[Instruction]:
        slept = self._last_tick is not None and now - self._last_tick > self._policy.late_tick
        self._last_tick = now
        if slept:
            self._since = max(self._since, now)
            self._restart_at = max(self._restart_at, now)
        if self.phase is Phase.BACKING_OFF:
            return self._start(now) if now >= self._restart_at else []
        if self.phase not in _WITH_WORKER:
            return []
        if self._kill_at is not None:
            if now < self._kill_at:
                return []
            self._kill_at = None
            return [KillWorker(self.incarnation)]
        return self._watch(max(self._since, event.progress_at), now)

    def _watch(self, progress_at: float, now: float) -> list[Instruction]:
        policy = self._policy
        calling = self.phase is Phase.ALIVE
        timeout = policy.step_timeout if calling else policy.start_timeout
        if timeout is None or self._hung is not None or (calling and not self._under_way):
            return []
        waited = now - progress_at
        what = f"{next(iter(self._under_way.values())).method!r}" if calling else self.phase.value
        if waited > timeout:
            self._hung = f"no progress in {what} for {timeout:g} s, so it was killed"
            self._kill_at = now + policy.dump_grace
            return [DumpStacks(self.incarnation)]
        if waited > timeout / 2 and not self._warned:
            self._warned = True
            return [
                Warn(
                    f"actor {self.name!r}: no progress in {what} for {waited:.1f} s; it is killed "
                    f"after {timeout:g} s."
                )
            ]
        return []


def _died(text: str) -> ActorDied:
    return ActorDied(f"{text} It is being restarted; make the call again.")


def _given_up(text: str, reason: str, max_restarts: int) -> Callable[[], BaseException]:
    kind = RestartsExhausted if max_restarts else ActorDied
    return lambda: kind(f"{text}\n{reason}")
