"""What every engine does with events: the supervisors decide, the engine carries it out.

Everything here runs under the reactor's lock. Events are handled one after the other: what an
instruction brings about (a result that another call waited for) is queued behind it, so the order
of sends is that of calls.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

from rl.core.runtime.calls import CallFuture, RemoteCall, StoredObject
from rl.core.runtime.events import Deliver, Event, Fail, Over, Warn
from rl.core.runtime.failures import CONSTRUCTOR, actor_error, remote_cause
from rl.core.runtime.memory import Payload
from rl.core.runtime.supervisor import Supervisor
from rl.core.runtime.wire import Outcome
from rl.errors import RuntimeFault

__all__ = ["Conductor", "Supervised", "construction_error"]

logger = logging.getLogger(__name__)


class Supervised(Protocol):
    """An actor as the driver keeps it."""

    name: str
    supervisor: Supervisor


ActorT = TypeVar("ActorT", bound=Supervised)


class Conductor(Generic[ActorT]):
    """Handles the events of the actors; an engine adds what needs workers to `_execute`."""

    def __init__(self, on_over: Callable[[ActorT], object]) -> None:
        self.actors: dict[str, ActorT] = {}
        self._on_over = on_over
        self._events: deque[tuple[ActorT, Event]] = deque()
        self._handling = False
        self._execute: dict[type, Callable[[ActorT, Any], None]] = {
            Deliver: self._deliver,
            Fail: self._fail,
            Over: self._over,
            Warn: self._warn,
        }

    def tell(self, actor: ActorT, event: Event) -> None:
        """Lets an actor's supervisor decide about an event, and does what it says."""
        self._events.append((actor, event))
        self._handle_events()

    def _happened(self, actor: ActorT, event: Event) -> None:
        """As `tell`, but handled only with the next `_handle_events`."""
        self._events.append((actor, event))

    def _handle_events(self) -> None:
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                about, happened = self._events.popleft()
                for instruction in about.supervisor.handle(happened, time.monotonic()):
                    self._execute[type(instruction)](about, instruction)
        finally:
            self._handling = False
            self._flush()

    def _flush(self) -> None:
        """Sends what has gathered, on engines that gather."""

    def await_sources(
        self,
        sources: list[tuple[int | str, CallFuture[Any] | StoredObject[Any]]],
        then: Callable[[], object],
        otherwise: Callable[[BaseException], object],
    ) -> None:
        """Calls `then()` once all results are here, `otherwise(error)` for each that failed."""
        missing = [0]

        def arrived(source: CallFuture[Any]) -> None:
            if source.payload is None:
                error = source.exception()
                assert error is not None
                otherwise(error)
                return
            missing[0] -= 1
            if missing[0] == 0:
                then()

        futures = [source for _, source in sources if isinstance(source, CallFuture)]
        missing[0] = len(futures)
        if not futures:
            then()
        for future in futures:
            future.when_finished(arrived)

    # Instructions that need no worker

    def _deliver(self, _: ActorT, instruction: Deliver) -> None:
        assert isinstance(instruction.call, RemoteCall)
        outcome, payload = cast("tuple[Outcome, Payload]", instruction.answer)
        instruction.call.settle(outcome, payload)

    def _fail(self, _: ActorT, instruction: Fail) -> None:
        assert isinstance(instruction.call, RemoteCall)
        instruction.call.fail(instruction.error)

    def _warn(self, _: ActorT, instruction: Warn) -> None:
        logger.warning("%s", instruction.text)

    def _over(self, actor: ActorT, _: Over) -> None:
        self.actors.pop(actor.name, None)
        self._on_over(actor)


def construction_error(name: str, payload: Payload) -> RuntimeFault:
    """For an actor whose constructor raised, from what `pack_error` packed of it."""
    original, kind, message, text = payload.open()
    error = actor_error(name, CONSTRUCTOR, kind, message)
    error.__cause__ = remote_cause(original, text)
    return error
