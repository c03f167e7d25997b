"""The Ray engine: the contract of `Runtime` on the actors, tasks and objects of a Ray cluster.

This file is its public side: what a call, a task and an object become. Decisions about life and
death are the `supervisor`'s, as in every engine, and the `RayDispatcher` carries them out.
"""

from __future__ import annotations

import atexit
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

from rl.core.runtime.base import ActorHandle, ActorSpec, Engine, Future, ObjectRef, Place
from rl.core.runtime.calls import RemoteCall, StoredObject, split_arguments
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
from rl.core.runtime.ray_actors import RayActor, RayPayload, first_line, read_answer
from rl.core.runtime.ray_cluster import RayOptions, connect, disconnect, room
from rl.core.runtime.ray_dispatcher import RayDispatcher, no_room
from rl.core.runtime.ray_objects import Packed
from rl.core.runtime.ray_placement import Placements
from rl.core.runtime.ray_worker import EXITED, run_task
from rl.core.runtime.resources import ResourceLedger, check_amounts
from rl.core.runtime.supervisor import Policy, Supervisor
from rl.core.runtime.wire import find_unpicklable
from rl.errors import ActorDied, UsageError

__all__ = ["RayEngine"]

T = TypeVar("T")
R = TypeVar("R")

START_S = 300.0
"""For a process to start once it has its room: Ray may have to copy the working directory first."""
GOODBYE_S = 5.0
"""How long killed actors get to be gone before the connection is closed."""


class RayEngine(Engine):
    """Runs actors and tasks on a Ray cluster. See `Runtime` for the words."""

    name = "ray"
    options = tuple(option.name for option in fields(RayOptions))

    def __init__(
        self,
        *,
        resources: Mapping[str, float] | None = None,
        step_timeout: float | None = None,
        **options: Any,
    ) -> None:
        """Joins or starts Ray; `options` are those of `RayOptions`.

        Raises:
            UsageError: The extra is missing, the cluster cannot be joined, or `resources` were told
                of a cluster, which knows its own.
            RuntimeFault: Ray could not be started.
        """
        self._options = RayOptions(**options)
        if self._options.address is not None and resources:
            raise UsageError(
                "Runtime('ray', address=..., resources=...): a running cluster knows what it has; "
                "resources are for a Ray of this machine. Leave one of the two out."
            )
        ledger = ResourceLedger(resources or {})
        self._step_timeout = step_timeout
        self._spawned = 0
        self._closed = False
        self._pid = os.getpid()
        connect(self._options, ledger.total)
        self._dispatcher = RayDispatcher(self._options, lambda _: None)
        self._ray = self._dispatcher.ray
        self.lock = self._dispatcher.reactor.lock
        """Guards everything that belongs to the engine."""
        self._placements = Placements(self._ray, self._options)
        self._tasks: deque[RemoteCall] = deque()
        self._running: set[RemoteCall] = set()
        self._run_task = self._ray.remote(max_retries=0, num_cpus=0, num_returns=2)(run_task)
        self._at_exit = shut_down_at_exit(self)

    def spawn(self, spec: ActorSpec[T]) -> ActorHandle[T]:
        """Asks for an actor and returns.

        Raises at once for a name that is taken, and for a class or arguments that cannot travel;
        for resources that no node has, after `placement_timeout` where nodes may still come.
        """
        self._check_open()
        args, kwargs, extras = split_arguments(spec.args, spec.kwargs)
        name = spec.name or f"{spec.class_name}-{self._spawned}"
        if spec.place is None:
            self._check_room(name, spec.resources)
        what = f"actor {name!r}, constructor"
        try:
            maker = self._keep(spec.actor_class), self._keep((args, kwargs))
        except Exception as error:
            raise find_unpicklable(what, (spec.actor_class, *args), kwargs, error) from error
        step_timeout = spec.step_timeout if spec.step_timeout is not None else self._step_timeout
        supervisor = Supervisor(
            name,
            Policy(
                max_restarts=spec.max_restarts, step_timeout=step_timeout, start_timeout=START_S
            ),
        )
        with self.lock:
            if name in self._dispatcher.actors:
                raise UsageError(
                    f"an actor called {name!r} exists already; give each its own name."
                )
            self._spawned += 1
            actor = RayActor(spec, supervisor, maker, extras, step_timeout)
            self._dispatcher.actors[name] = actor
            self._dispatcher.await_sources(
                extras,
                then=lambda: self._dispatcher.tell(actor, Begin()),
                otherwise=lambda error: self._dispatcher.tell(actor, End(lambda: error)),
            )
        return RemoteHandle(self, actor)

    def call(
        self, actor: RayActor, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]:
        """Sends a message to an actor."""
        call = RemoteCall(actor.name, actor.class_name, method)
        future = call.promise(self)
        if (args or kwargs) and not self._fill(call, args, kwargs):
            return future
        call.withdraw = lambda: self._withdraw(actor, call)
        with self.lock:
            self._dispatcher.tell(actor, Submitted(call))
            if call.extras and not call.ready:
                self._dispatcher.await_sources(
                    call.extras,
                    then=lambda: self._dispatcher.tell(actor, BecameReady(call)),
                    otherwise=lambda error: self._dispatcher.tell(actor, Withdrawn(call, error)),
                )
        if future.done():
            self.settled()
        return future

    def put(self, value: R) -> ObjectRef[R]:
        """Copies the value once into Ray's store; each node that needs it fetches it once."""
        self._check_open()
        try:
            return StoredObject(self._keep(value))
        except Exception as error:
            raise find_unpicklable("runtime.put", (value,), {}, error) from error

    def place(
        self, requests: Sequence[Mapping[str, float]], strategy: str, reserve: bool
    ) -> list[Place]:
        """Reserves a bundle for each actor; nothing is reserved for those that take nothing."""
        self._check_open()
        for number, request in enumerate(requests):
            check_amounts(request, f"place {number}")
        return self._placements.place(requests, strategy, reserve)

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

    def kill(self, actor: RayActor) -> None:
        """Ends an actor for good."""
        with self.lock:
            self._dispatcher.tell(actor, KillAsked())
        self.settled()

    def shutdown(self) -> None:
        """Kills the actors, then stops a Ray that was started here, or leaves the cluster."""
        if os.getpid() != self._pid:
            return  # a fork of the driver has a copy of us, but the workers are its parent's
        with self.lock:
            if self._closed:
                return
            self._closed = True
            atexit.unregister(self._at_exit)
            waiting, self._tasks = self._tasks, deque()
            for call in (*waiting, *self._running):
                call.fail(shut_down(call.actor))
            for actor in list(self._dispatcher.actors.values()):
                self._dispatcher.tell(actor, End(partial(shut_down, actor.name)))
        dispatcher = self._dispatcher
        dispatcher.reactor.block(lambda: not dispatcher.actors, GOODBYE_S)
        dispatcher.close()
        dispatcher.reactor.run_later()
        self._placements.close()
        disconnect()

    # Tasks

    def submit(
        self, function: Callable[..., R], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[R]:
        """Queues a task for the first free processor of the cluster."""
        self._check_open()
        call = RemoteCall("task", "task", getattr(function, "__name__", repr(function)), "run")
        future = call.promise(self)
        if not self._fill(call, (function, *args), kwargs):
            return future
        with self.lock:
            call.withdraw = lambda: self._take_back_task(call)
            self._dispatcher.await_sources(
                call.extras, then=lambda: self._queue_task(call), otherwise=call.fail
            )
        self.settled()
        return future

    def _queue_task(self, call: RemoteCall) -> None:
        self._tasks.append(call)
        self._start_tasks()

    def _start_tasks(self) -> None:
        if not self._tasks:
            return
        limit = max(1, int(sum(node.get("cpu", 0) for node in room(self._ray).nodes)))
        run = self._run_task.options(
            scheduling_strategy="SPREAD", runtime_env=self._dispatcher.environment({})
        )
        while self._tasks and len(self._running) < limit:
            call = self._tasks.popleft()
            places = [place for place, _ in call.extras]
            values = [_value_of(source.payload) for _, source in call.extras]
            header, value = run.remote(_value_of(call.arguments), places, *values)
            self._running.add(call)
            self._dispatcher.watch(header, partial(self._task_done, call, value))

    def _task_done(self, call: RemoteCall, value: Any, answer: Any) -> None:
        self._running.discard(call)
        if isinstance(answer, BaseException):
            call.fail(ActorDied(f"task {call.method!r}: its process ended ({first_line(answer)})."))
        elif answer[0] == EXITED:
            call.fail(ActorDied(f"task {call.method!r}: its process ended: {answer[1]}."))
        else:
            call.settle(*read_answer(answer, value))
        self._start_tasks()

    def _take_back_task(self, call: RemoteCall) -> bool:
        if call in self._running:
            return False
        if call in self._tasks:
            self._tasks.remove(call)
        call.fail(cancelled(call.actor, call.method))
        return True

    # Arguments and resources

    def _fill(self, call: RemoteCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Packs the arguments; False when they cannot travel, and then the future says so."""
        plain, named, call.extras = split_arguments(args, kwargs)
        call.ready = not any(isinstance(source, Future) for _, source in call.extras)
        try:
            call.arguments = self._keep((plain, named))
        except Exception as error:
            kind = "task" if call.message is not call.method else f"actor {call.actor!r}, method"
            call.fail(find_unpicklable(f"{kind} {call.method!r}", plain, named, error))
            return False
        return True

    def _keep(self, value: object) -> RayPayload:
        return RayPayload.keep(Packed.of(value))

    def _withdraw(self, actor: RayActor, call: RemoteCall) -> bool:
        """Takes back a call that an actor has not begun. With the lock held."""
        if call.number == 0:
            future = call.future
            self._dispatcher.tell(actor, CancelAsked(call))
            return future.done()
        if actor.worker is None or not self._dispatcher.take_back(actor.worker, call.number):
            return False
        call.fail(cancelled(call.actor, call.method))
        return True

    def _check_room(self, name: str, needs: Mapping[str, float]) -> None:
        """Waits where nodes may still come, and says what for; then refuses what nobody has."""
        check_amounts(needs, f"actor {name!r}")
        deadline = time.monotonic() + (
            self._options.placement_timeout if self._options.address is not None else 0.0
        )
        while not (there := room(self._ray)).fits(needs):
            if time.monotonic() >= deadline:
                raise no_room(name, needs, str(there))
            self._dispatcher.ask_for_nodes(name, needs, there)
            time.sleep(0.5)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this runtime was shut down; make a new Runtime to go on.")


def _value_of(payload: object) -> Any:
    assert isinstance(payload, RayPayload)
    return payload.value
