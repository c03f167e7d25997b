"""Stateless tasks: a queue in front of a few actors that run functions."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from rl.core.runtime.actors import Actor
from rl.core.runtime.base import ActorSpec
from rl.core.runtime.calls import CallFuture, RemoteCall
from rl.core.runtime.dispatcher import Dispatcher
from rl.core.runtime.events import Submitted
from rl.core.runtime.failures import cancelled, shut_down
from rl.core.runtime.supervisor import Phase
from rl.core.runtime.worker import TaskRunner

__all__ = ["TaskPool"]


class Spawner(Protocol):
    """Who makes actors, and takes calls back from them."""

    def spawn_actor(self, spec: ActorSpec[Any]) -> Actor: ...

    def withdraw(self, actor: Actor, call: RemoteCall) -> bool: ...


class TaskPool:
    """Gives each worker one task at a time, so that a long one holds up no other.

    Workers start when they are needed.

    A worker that dies takes its task with it, which then raises `ActorDied`; the next task gets a
    new worker.
    """

    def __init__(
        self, spawner: Spawner, dispatcher: Dispatcher, preload: tuple[str, ...], workers: int
    ) -> None:
        self._spawner = spawner
        self._dispatcher = dispatcher
        self._preload = preload
        self._limit = workers
        self._waiting: deque[RemoteCall] = deque()
        self._running: dict[RemoteCall, Actor] = {}
        self._idle: list[Actor] = []
        self._made = 0

    def add(self, call: RemoteCall) -> None:
        """Runs a call whose arguments are all there as soon as a worker is free."""
        call.ready = True
        self._waiting.append(call)
        self._assign()

    def withdraw(self, call: RemoteCall) -> bool:
        """Takes back a task that has not begun."""
        if call in self._waiting:
            self._waiting.remove(call)
        elif call in self._running:
            return self._spawner.withdraw(self._running[call], call)
        call.fail(cancelled(call.actor, call.method))
        return True

    def close(self) -> None:
        """Fails what still waits; its workers are stopped as all actors are."""
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            call.fail(shut_down(call.actor))

    def _assign(self) -> None:
        while self._waiting:
            actor = self._free_worker()
            if actor is None:
                return
            call = self._waiting.popleft()
            self._running[call] = actor
            future = call.future
            self._dispatcher.tell(actor, Submitted(call))
            future.when_finished(self._finished)

    def _free_worker(self) -> Actor | None:
        while self._idle:
            actor = self._idle.pop()
            if actor.supervisor.phase is not Phase.ENDED:
                return actor
        if len(self._running) >= self._limit:
            return None
        self._made += 1
        kind = "-".join(("tasks", *self._preload))
        return self._spawner.spawn_actor(
            ActorSpec(TaskRunner, name=f"{kind}-{self._made}", preload=self._preload)
        )

    def _finished(self, future: CallFuture[Any]) -> None:
        actor = self._running.pop(future.call, None)
        if actor is not None:
            self._idle.append(actor)
        self._assign()
