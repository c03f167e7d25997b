"""The process engine: actors on worker processes of this machine.

This file is its public side: what a call, a task and an object become. Decisions about life and
death are the `supervisor`'s, and the `dispatcher` carries them out.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import resource
import sys
import types
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from rl.core.runtime import nursery
from rl.core.runtime.actors import Actor
from rl.core.runtime.base import ActorHandle, ActorSpec, Engine, Future, ObjectRef
from rl.core.runtime.calls import RemoteCall, StoredObject, split_arguments
from rl.core.runtime.dispatcher import Dispatcher
from rl.core.runtime.events import (
    BecameReady,
    Begin,
    CancelAsked,
    End,
    KillAsked,
    Submitted,
    Withdrawn,
)
from rl.core.runtime.failures import cancelled, shut_down
from rl.core.runtime.handles import RemoteHandle, shut_down_at_exit
from rl.core.runtime.resources import ResourceLedger
from rl.core.runtime.segments import Segment
from rl.core.runtime.supervisor import Policy, Supervisor
from rl.core.runtime.tasks import TaskPool
from rl.core.runtime.wire import Blob, find_unpicklable, pack
from rl.errors import ResourcesUnavailable, RuntimeFault, UsageError

__all__ = ["ProcessEngine"]

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)

GOODBYE_S = 2.0
"""How long idle workers get to leave by themselves."""


class ProcessEngine(Engine):
    """Runs actors and tasks on worker processes. See `Runtime` for the words."""

    name = "process"

    def __init__(
        self, *, resources: Mapping[str, float] | None = None, step_timeout: float | None = None
    ) -> None:
        self._step_timeout = step_timeout
        self._ledger = ResourceLedger(resources or {})
        self._waiting: deque[Actor] = deque()  # for resources
        self._spawned = 0
        self._closed = False
        self._pid = os.getpid()
        self._pools: dict[tuple[str, ...], TaskPool] = {}
        try:
            self._dispatcher = Dispatcher(self._over)
            self.lock = self._dispatcher.reactor.lock
            """Guards everything that belongs to the engine."""
            with self.lock:
                self._dispatcher.launcher(())  # its imports run while the driver goes on
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise _too_few_descriptors() from None  # the traceback is all ours, and says no more
        # The interpreter must not end with the background thread inside a socket.
        self._at_exit = shut_down_at_exit(self)

    def spawn(self, spec: ActorSpec[T]) -> ActorHandle[T]:
        """Asks for a worker and returns.

        Raises at once for a name that is taken, for a class or arguments that cannot travel, and
        for resources that can never be had.
        """
        return RemoteHandle(self, self.spawn_actor(spec))

    def spawn_actor(self, spec: ActorSpec[Any]) -> Actor:
        """As `spawn`; for the pools of tasks."""
        self._check_open()
        preload = spec.preload if spec.preload is not None else _preload_for(spec.actor_class)
        args, kwargs, extras = split_arguments(spec.args, spec.kwargs)
        name = spec.name or f"{spec.class_name}-{self._spawned}"
        self._ledger.check(spec.resources, name)
        what = f"actor {name!r}, constructor"
        try:
            blobs = self._pack(spec.actor_class), self._pack((args, kwargs))
        except RuntimeFault:  # no memory
            raise
        except Exception as error:
            raise find_unpicklable(what, (spec.actor_class, *args), kwargs, error) from error
        step_timeout = spec.step_timeout if spec.step_timeout is not None else self._step_timeout
        policy = Policy(max_restarts=spec.max_restarts, step_timeout=step_timeout)
        with self.lock:
            if name in self._dispatcher.actors:
                raise UsageError(
                    f"an actor called {name!r} exists already; give each its own name."
                )
            self._spawned += 1
            maker, arguments = (self._dispatcher.book.keep(blob) for blob in blobs)
            actor = Actor(spec, Supervisor(name, policy), (maker, arguments), extras, preload)
            self._dispatcher.actors[name] = actor
            self._dispatcher.await_sources(
                extras,
                then=lambda: self._queue_for_resources(actor),
                otherwise=lambda error: self._dispatcher.tell(actor, End(lambda: error)),
            )
        return actor

    def call(
        self, actor: Actor, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]:
        """Sends a message to an actor."""
        call = RemoteCall(actor.name, actor.class_name, method)
        future = call.promise(self)
        if (args or kwargs) and not self._fill(call, args, kwargs):
            return future
        call.withdraw = lambda: self.withdraw(actor, call)
        with self.lock:
            self._dispatcher.tell(actor, Submitted(call))
            if call.extras and not call.ready:
                self._dispatcher.await_sources(
                    call.extras,
                    then=lambda: self._dispatcher.tell(actor, BecameReady(call)),
                    otherwise=lambda error: self._dispatcher.tell(actor, Withdrawn(call, error)),
                )
        self._dispatcher.reactor.stay_away()
        if future.done():
            self.settled()
        return future

    def submit(
        self, function: Callable[..., R], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[R]:
        """Queues a task for the first free worker of its pool, one for each core."""
        self._check_open()
        name = getattr(function, "__name__", repr(function))
        call = RemoteCall("task", "task", name, message="run")
        future = call.promise(self)
        if not self._fill(call, (function, *args), kwargs):
            return future
        preload = _preload_for(function)
        with self.lock:
            pool = self._pools.get(preload)
            if pool is None:
                workers = max(1, int(self._ledger.total["cpu"]))
                pool = self._pools[preload] = TaskPool(self, self._dispatcher, preload, workers)
            waiting = pool
            call.withdraw = lambda: waiting.withdraw(call)
            self._dispatcher.await_sources(
                call.extras, then=lambda: waiting.add(call), otherwise=call.fail
            )
        self.settled()
        return future

    def put(self, value: R) -> ObjectRef[R]:
        """Copies the value once into shared memory."""
        self._check_open()
        try:
            blob = self._pack(value)
        except RuntimeFault:  # no memory
            raise
        except Exception as error:
            raise find_unpicklable("runtime.put", (value,), {}, error) from error
        with self.lock:
            return StoredObject(self._dispatcher.book.keep(blob))

    def block(self, until: Callable[[], bool], timeout: float | None) -> bool:
        """Listens to the workers until `until()`."""
        return self._dispatcher.reactor.block(until, timeout)

    def run_soon(self, callback: Callable[[], object]) -> None:
        """Keeps a user's callback until the lock is free."""
        self._dispatcher.reactor.call_later(callback)

    def settled(self) -> None:
        """Something was settled outside the loop: runs callbacks and wakes those who wait."""
        self._dispatcher.reactor.nudge()
        self._dispatcher.reactor.run_later()

    def shutdown(self) -> None:
        """Lets idle workers leave, kills the others, and removes every trace."""
        if os.getpid() != self._pid:
            return  # a fork of the driver has a copy of us, but the workers are its parent's
        with self.lock:
            if self._closed:
                return
            self._closed = True
            atexit.unregister(self._at_exit)
            self._stop_actors()
        dispatcher = self._dispatcher
        dispatcher.reactor.block(lambda: not dispatcher.workers, GOODBYE_S)
        dispatcher.close()
        dispatcher.reactor.run_later()
        nursery.drop()

    def _stop_actors(self) -> None:
        self._waiting.clear()
        for pool in self._pools.values():
            pool.close()
        for actor in list(self._dispatcher.actors.values()):
            # Who is in a call would not hear that it shall stop.
            self._dispatcher.stopping = not actor.supervisor.busy
            self._dispatcher.tell(actor, End(partial(shut_down, actor.name)))

    def withdraw(self, actor: Actor, call: RemoteCall) -> bool:
        """Takes back a call that an actor has not begun. With the lock held."""
        if call.number == 0:
            future = call.future
            self._dispatcher.tell(actor, CancelAsked(call))
            return future.done()
        if actor.worker is None or not actor.worker.board.take_back(call.number):
            return False
        call.fail(cancelled(call.actor, call.method))
        return True

    def kill(self, actor: Actor) -> None:
        """Ends an actor for good."""
        with self.lock:
            self._dispatcher.tell(actor, KillAsked())
        self.settled()

    # Arguments

    def _fill(self, call: RemoteCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Packs the arguments; False when they cannot travel, and then the future says so."""
        plain, named, call.extras = split_arguments(args, kwargs)
        call.ready = not any(isinstance(source, Future) for _, source in call.extras)
        try:
            blob = self._pack((plain, named))
        except RuntimeFault as error:  # no memory
            call.fail(error)
            return False
        except Exception as error:
            kind = "task" if call.message is not call.method else f"actor {call.actor!r}, method"
            call.fail(find_unpicklable(f"{kind} {call.method!r}", plain, named, error))
            return False
        call.arguments = self._dispatcher.book.keep(blob)
        return True

    def _pack(self, value: object) -> Blob:
        return pack(value, self._take)

    def _take(self, num_bytes: int) -> Segment:
        with self.lock:
            self._dispatcher.book.settle()  # what was dropped just now can be used again
        return self._dispatcher.book.pool.take(num_bytes)

    # Resources

    def _queue_for_resources(self, actor: Actor) -> None:
        self._waiting.append(actor)
        self._start_waiting()
        if actor in self._waiting:
            logger.warning(
                "actor %r waits for %s; it starts when others end.",
                actor.name,
                self._ledger.lacking(actor.resources) or "those before it",
            )

    def _start_waiting(self) -> None:
        """In order: a large request is not overtaken for ever by small ones."""
        while self._waiting and self._ledger.lacking(self._waiting[0].resources) is None:
            actor = self._waiting.popleft()
            self._ledger.take(actor.resources)
            actor.holds_resources = True
            self._dispatcher.tell(actor, Begin())

    def _over(self, actor: Actor) -> None:
        if actor in self._waiting:
            self._waiting.remove(actor)
        if actor.holds_resources:
            actor.holds_resources = False
            self._ledger.give_back(actor.resources)
        self._start_waiting()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this runtime was shut down; make a new Runtime to go on.")


def _preload_for(made_by: object) -> tuple[str, ...]:
    """Torch, if the module of a class or function uses it: its import takes a second."""
    while isinstance(made_by, partial):
        made_by = made_by.func
    module = sys.modules.get(getattr(made_by, "__module__", None) or "")
    if module is None or "torch" not in sys.modules:
        return ()
    uses = any(
        isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] == "torch"
        for value in vars(module).values()
    )
    return ("torch",) if uses else ()


def _too_few_descriptors() -> ResourcesUnavailable:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ResourcesUnavailable(
        f"worker processes need more open files than this process may have ({limit}): raise the"
        " limit with `ulimit -n 1024`, or let everything run in this one with --runtime.engine"
        " inline"
    )
