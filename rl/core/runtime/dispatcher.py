"""Carries out what supervisors decide: starts and kills workers, sends and receives messages.

Everything here runs under the reactor's lock; see `Conductor` for the order of events.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

from rl.core.runtime.actors import Actor, Worker
from rl.core.runtime.calls import CallFuture, RemoteCall, StoredObject
from rl.core.runtime.conductor import Conductor, construction_error
from rl.core.runtime.directories import current_directory
from rl.core.runtime.events import (
    Answered,
    Construct,
    Constructed,
    ConstructionFailed,
    DumpStacks,
    KillWorker,
    Send,
    StartWorker,
    Tick,
    WorkerGone,
    WorkerUp,
)
from rl.core.runtime.exits import Exit, describe_status, out_of_memory_kills
from rl.core.runtime.forkserver import DUMP_SIGNAL, Birth
from rl.core.runtime.launcher import Launcher
from rl.core.runtime.memory import NOTHING, Payload, SegmentBook
from rl.core.runtime.reactor import Reactor
from rl.core.runtime.wire import OUTCOMES, Blob, Kind, Outcome
from rl.errors import RuntimeFault

__all__ = ["Dispatcher"]

logger = logging.getLogger(__name__)
output_logger = logging.getLogger("rl.workers")
"""Every line that a worker prints, at level INFO."""

ANSWER, CALL, CALLS = Kind.ANSWER.value, Kind.CALL.value, Kind.CALLS.value


class Dispatcher(Conductor[Actor]):
    """The sockets, processes and books of one runtime."""

    def __init__(self, on_over: Callable[[Actor], object]) -> None:
        super().__init__(on_over)
        self.book = SegmentBook()
        self.workers: dict[int, Worker] = {}
        self.stopping = False
        """Whether a worker that is to end is asked to, rather than killed."""
        self._born = 0
        self._closed = False
        self._launchers: list[Launcher] = []
        self._outbound: dict[Worker, list[tuple[Any, ...]]] = {}
        self._memory_kills = out_of_memory_kills()
        with_workers: dict[type, Callable[[Actor, Any], None]] = {
            Construct: self._construct,
            DumpStacks: self._dump_stacks,
            KillWorker: self._kill_worker,
            Send: self._send_call,
            StartWorker: self._start_worker,
        }
        self._execute |= with_workers
        self.reactor = Reactor(self._tick)

    # Events

    def _flush(self) -> None:
        """Sends the calls that have gathered, those for one worker in one message."""
        while self._outbound:
            worker, calls = self._outbound.popitem()
            self._send(worker, calls[0] if len(calls) == 1 else (CALLS, calls))

    def _tick(self, now: float) -> bool:
        busy = False
        for actor in list(self.actors.values()):
            if actor.supervisor.busy:
                busy = True
                worker = actor.worker
                self.tell(actor, Tick(worker.board.progress_at if worker else 0.0))
        self.book.settle()
        for worker in self.workers.values():
            if worker.connected and (worker.partner.frees or worker.partner.forgets):
                self._send(worker, (Kind.NOTE.value, *worker.partner.notes()))
        return busy

    # Instructions

    def _start_worker(self, actor: Actor, instruction: StartWorker) -> None:
        self._born += 1
        try:
            launcher = self.launcher(actor.preload)
            worker = Worker(self._born, actor, self.book)
        except (OSError, RuntimeFault) as error:
            reason = Exit(f"it could not be started ({error})")
            self._happened(actor, WorkerGone(instruction.incarnation, reason))
            return
        actor.worker = worker
        self.workers[worker.number] = worker
        self.reactor.register(worker.output, lambda: self._log_output(worker))
        self.reactor.register(worker.line.fd, lambda: self._receive(worker))
        birth = Birth(worker.number, dict(actor.spec.environment), actor.preload)
        launcher.start(birth, worker.fds_to_give)
        self.reactor.tick_soon()

    def _construct(self, actor: Actor, _: Construct) -> None:
        worker = actor.worker
        assert worker is not None
        maker, arguments = (self.book.lend(worker.partner, part) for part in actor.maker)
        extras = self._lend_sources(worker, actor.extras)
        where = (current_directory(), sys.path)
        self._send(worker, (Kind.CONSTRUCT.value, actor.name, maker, arguments, extras, where))

    def _send_call(self, actor: Actor, instruction: Send) -> None:
        call, worker = instruction.call, actor.worker
        assert isinstance(call, RemoteCall)
        assert worker is not None
        message: tuple[Any, ...] = (CALL, call.number, call.message)
        self.book.settle()
        notes = worker.partner.notes()
        if call.arguments is not None:
            arguments = self.book.lend(worker.partner, call.arguments)
            extras = self._lend_sources(worker, call.extras) if call.extras else ()
            call.arguments, call.extras = None, []
            message = (*message, arguments, extras, *notes)
        elif notes:
            message = (*message, None, (), *notes)
        if worker in self._outbound:
            self._outbound[worker].append(message)
        else:
            self._outbound[worker] = [message]

    def _dump_stacks(self, actor: Actor, _: DumpStacks) -> None:
        self._signal(actor, DUMP_SIGNAL)

    def _kill_worker(self, actor: Actor, _: KillWorker) -> None:
        worker = actor.worker
        if self.stopping and worker is not None and worker.connected:
            self._send(worker, (Kind.STOP.value,))
        else:
            self._signal(actor, signal.SIGKILL)

    def _signal(self, actor: Actor, number: int) -> None:
        if actor.worker is not None:
            self.launcher(actor.preload).signal(actor.worker.number, number)

    # Processes

    def launcher(self, preload: tuple[str, ...]) -> Launcher:
        """The first forkserver that has these modules, started if there is none."""
        for at, launcher in enumerate(self._launchers):
            if not launcher.modules.issuperset(preload):
                continue
            if launcher.lost:
                launcher.close()
                again = tuple(sorted(launcher.modules))
                self._launchers[at] = Launcher(again, self.reactor, self._hear_launcher)
            return self._launchers[at]
        self._launchers.append(Launcher(preload, self.reactor, self._hear_launcher))
        return self._launchers[-1]

    def _hear_launcher(self, word: str, number: int, value: object) -> None:
        worker = self.workers.get(number)
        if worker is None:
            return
        if word == "born":
            assert isinstance(value, int)
            worker.pid = value
            return
        while self._receive(worker):  # what it sent before it died
            pass
        self.reactor.unregister(worker.line.fd)
        if word == "gone":
            assert isinstance(value, int)
            kills = out_of_memory_kills()
            how = describe_status(value, out_of_memory=kills > self._memory_kills)
            self._memory_kills = kills
        else:
            how = str(value) if word == "stillborn" else "SIGKILL (with the forkserver, its parent)"
        self.reactor.unregister(worker.output)
        gone = WorkerGone(worker.incarnation, worker.exit(how))
        del self.workers[number]
        worker.actor.worker = None
        self.book.part(number)
        worker.close()
        self.tell(worker.actor, gone)
        self.reactor.tick_soon()

    def _log_output(self, worker: Worker) -> None:
        lines = worker.read_output()
        if lines is None:
            self.reactor.unregister(worker.output)
            return
        for line in lines:
            output_logger.info("%s: %s", worker.actor.name, line)

    # Messages

    def _receive(self, worker: Worker) -> bool:
        """Handles what a worker has sent; False when there was nothing."""
        try:
            messages = worker.line.read()
        except ValueError:
            logger.exception("actor %r sent what is no message; it is killed", worker.actor.name)
            self._signal(worker.actor, signal.SIGKILL)
            messages = None
        if messages is None:  # its launcher tells of the dead
            self.reactor.unregister(worker.line.fd)
        for message in messages or ():
            self._hear_worker(worker, message)
        self._handle_events()
        return bool(messages)

    def _hear_worker(self, worker: Worker, message: tuple[Any, ...]) -> None:
        actor, kind = worker.actor, message[0]
        if kind == ANSWER:
            number = message[1]
            self._happened(
                actor, Answered(worker.incarnation, number, self._answer(worker, message))
            )
        elif kind == Kind.HELLO:
            worker.connected = True
            self._happened(actor, WorkerUp(worker.incarnation))
        elif kind == Kind.CONSTRUCTED:
            self._happened(actor, Constructed(worker.incarnation))
        elif kind == Kind.CONSTRUCTION_FAILED:
            _, key, blob, released, retired = message
            payload = self._take_in(worker, blob, released, retired)
            event = ConstructionFailed(
                worker.incarnation, key, lambda: construction_error(actor.name, payload)
            )
            self._happened(actor, event)

    def _answer(self, worker: Worker, message: tuple[Any, ...]) -> tuple[Outcome, Payload]:
        if len(message) == 2:
            return ANSWERED_NOTHING
        _, _, outcome, blob, released, retired = message
        return OUTCOMES[outcome], self._take_in(worker, blob, released, retired)

    def _take_in(
        self, worker: Worker, blob: Blob, released: tuple[int, ...], retired: tuple[int, ...]
    ) -> Payload:
        if released or retired:
            self.book.returned(worker.partner, released, retired)
        return self.book.receive(worker.partner, blob)

    def _lend_sources(
        self, worker: Worker, sources: list[tuple[int | str, CallFuture[Any] | StoredObject[Any]]]
    ) -> tuple[tuple[int | str, Blob], ...]:
        lent = []
        for place, source in sources:
            assert source.payload is not None
            lent.append((place, self.book.lend(worker.partner, source.payload)))
        return tuple(lent)

    def _send(self, worker: Worker, message: tuple[Any, ...]) -> None:
        if not worker.line.send(message):
            self.reactor.write_later(worker.line.fd, worker.line.flush)

    def close(self) -> None:
        """Ends every process and gives everything back. Called without the lock."""
        with self.reactor.lock:
            for launcher in self._launchers:
                launcher.close()
            for worker in self.workers.values():
                self.reactor.unregister(worker.output)
                self.reactor.unregister(worker.line.fd)
                worker.close()
            self.workers.clear()
            self._closed = True
        self.reactor.close()
        self.book.close()


ANSWERED_NOTHING = (Outcome.RETURNED, NOTHING)
