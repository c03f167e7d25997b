"""Carries out on Ray what supervisors decide.

Each incarnation of an actor is a Ray actor of its own, which Ray never restarts: the supervisor
does, by the same rules as on every engine. What Ray tells, in threads of its own, is only noted
there and handled by the reactor.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rl.core.runtime.calls import RemoteCall
from rl.core.runtime.conductor import Conductor, construction_error
from rl.core.runtime.directories import current_directory
from rl.core.runtime.events import (
    Answered,
    Construct,
    Constructed,
    ConstructionFailed,
    DumpStacks,
    End,
    KillWorker,
    Over,
    Send,
    StartWorker,
    Tick,
    WorkerGone,
    WorkerUp,
)
from rl.core.runtime.exits import Exit
from rl.core.runtime.ray_actors import (
    Incarnation,
    RayActor,
    RayPayload,
    exit_of,
    first_line,
    read_answer,
    values_of,
)
from rl.core.runtime.ray_cluster import (
    ONE_THREAD_EACH,
    RayOptions,
    Room,
    load_ray,
    ray_resources,
    room,
    words,
)
from rl.core.runtime.ray_placement import Bundle, Unreserved, strategy_of
from rl.core.runtime.ray_worker import EXITED, RayWorker, versions
from rl.core.runtime.reactor import Reactor
from rl.core.runtime.supervisor import Phase
from rl.core.runtime.wire import Outcome
from rl.errors import ResourcesUnavailable

__all__ = ["RayDispatcher", "no_room"]

logger = logging.getLogger(__name__)

GONE_S = 5.0
"""After a kill, for Ray to confirm it; a node that was cut off never does."""
PATIENT_S = 2.0
"""An actor that has not started by then is looked after: is there room for it?"""
LOOK_S = 1.0
"""Between two looks."""
TAKE_BACK_S = 5.0
"""For the answer whether a call has begun."""

Told = Callable[[Any], object]


class RayDispatcher(Conductor[RayActor]):
    """The Ray actors of one runtime."""

    def __init__(self, options: RayOptions, on_over: Callable[[RayActor], object]) -> None:
        super().__init__(on_over)
        self.ray = load_ray()
        self._options = options
        self._namespace = options.namespace or f"rl-{os.getpid()}-{os.urandom(4).hex()}"
        self._told: deque[tuple[Told, Any]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._born = self._stale = 0
        self._asked_for: set[str] = set()
        self._worker_class = self.ray.remote(
            concurrency_groups={"questions": 1, "vigil": 1}, max_restarts=0, max_task_retries=0
        )(RayWorker)
        with_workers: dict[type, Callable[[RayActor, Any], None]] = {
            Construct: self._construct,
            DumpStacks: self._dump_stacks,
            KillWorker: self._kill_worker,
            Send: self._send_call,
            StartWorker: self._start_worker,
        }
        self._execute |= with_workers
        self.reactor = Reactor(self._tick)
        self.reactor.register(self._bell, self._hear)

    @property
    def stale(self) -> int:
        """Answers dropped because they came from an incarnation that was given up."""
        return self._stale + sum(actor.supervisor.stale for actor in self.actors.values())

    def take_back(self, worker: Incarnation, number: int) -> bool:
        """Makes a call that was sent be passed over; False when it has begun."""
        asked = worker.remote.take_back.options(concurrency_group="questions").remote(number)
        try:
            taken: bool = self.ray.get(asked, timeout=TAKE_BACK_S)
        except self.ray.exceptions.RayError:
            return False
        return taken

    def ask_for_nodes(self, actor: str, needs: Mapping[str, float], there: Room) -> None:
        """Tells an autoscaler, if there is one, and once the user."""
        if actor in self._asked_for:
            return
        self._asked_for.add(actor)
        logger.warning(
            "actor %r asks for %s, and the cluster has %s; waiting %g s for more.",
            actor,
            words(needs),
            there,
            self._options.placement_timeout,
        )
        autoscaler = importlib.import_module("ray.autoscaler.sdk")
        autoscaler.request_resources(bundles=[ray_resources(needs)])

    # What Ray tells

    def watch(self, ref: Any, told: Told) -> None:
        """Calls `told(value or exception)` in the reactor once `ref` is there."""
        ref._on_completed(lambda value: self._note(told, value))  # noqa: SLF001

    def _note(self, told: Told, value: Any) -> None:
        # In a thread of Ray's that it needs to serve us: never wait for a lock here.
        self._told.append((told, value))
        with contextlib.suppress(OSError):
            os.eventfd_write(self._bell, 1)

    def _hear(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_read(self._bell)
        while self._told:
            told, value = self._told.popleft()
            told(value)
        self._handle_events()

    # Instructions

    def environment(self, more: Mapping[str, str]) -> dict[str, Any]:
        """The `runtime_env` of a worker."""
        return {"env_vars": {**ONE_THREAD_EACH, **self._options.env_vars, **more}}

    def _start_worker(self, actor: RayActor, instruction: StartWorker) -> None:
        self._born += 1
        needs = ray_resources(actor.spec.resources)
        remote = self._worker_class.options(
            name=f"{actor.name}#{self._born}",
            namespace=self._namespace,
            num_cpus=needs.pop("CPU", 0),
            num_gpus=needs.pop("GPU", 0),
            resources=needs,
            runtime_env=self.environment(actor.spec.environment),
            scheduling_strategy=strategy_of(actor.spec.place),
        ).remote()
        worker = actor.worker = Incarnation(actor, remote)
        self.watch(remote.vigil.options(concurrency_group="vigil").remote(), self._gone(worker))
        self.watch(remote.hello.remote(), lambda value: self._up(worker, value))
        self.reactor.tick_soon()

    def _construct(self, actor: RayActor, _: Construct) -> None:
        worker = actor.worker
        assert worker is not None
        where = None
        if self._options.working_dir is None:
            where = (current_directory(), sys.path)
        maker, arguments = (part.value for part in actor.maker)
        places, values = values_of(actor.extras)
        header, _ = worker.remote.construct.options(num_returns=2).remote(
            maker, arguments, places, where, *values
        )
        self.watch(header, lambda answer: self._constructed(worker, answer))

    def _send_call(self, actor: RayActor, instruction: Send) -> None:
        call, worker = instruction.call, actor.worker
        assert isinstance(call, RemoteCall)
        assert worker is not None
        number, arguments = call.number, call.arguments
        places, values = values_of(call.extras)
        packed = arguments.value if isinstance(arguments, RayPayload) else None
        call.arguments, call.extras = None, []
        header, value = worker.remote.call.options(num_returns=2).remote(
            number, call.message, packed, places, *values
        )
        self.watch(header, lambda answer: self._answered(worker, number, answer, value))

    def _dump_stacks(self, actor: RayActor, _: DumpStacks) -> None:
        worker = actor.worker
        if worker is not None:
            asked = worker.remote.stacks.options(concurrency_group="questions").remote()
            self.watch(
                asked,
                lambda lines: worker.stacks.extend(lines if isinstance(lines, list) else ()),
            )

    def _kill_worker(self, actor: RayActor, _: KillWorker) -> None:
        worker = actor.worker
        if worker is not None and worker.killed_at is None:
            worker.killed_at = time.monotonic()
            self.ray.kill(worker.remote, no_restart=True)

    def _over(self, actor: RayActor, instruction: Over) -> None:
        self._stale += actor.supervisor.stale
        super()._over(actor, instruction)

    # Answers

    def _up(self, worker: Incarnation, value: Any) -> None:
        if isinstance(value, BaseException):
            return  # the vigil tells
        worker.pid, theirs = value
        if theirs != versions():
            reason = f"it runs {theirs}, and this process {versions()}; they must be alike"
            self._end_of(worker, Exit(reason, worker.pid))
            return
        self._happened(worker.actor, WorkerUp(worker.number))

    def _constructed(self, worker: Incarnation, answer: Any) -> None:
        actor = worker.actor
        if isinstance(answer, BaseException):
            self._lost(worker, answer)
        elif answer[0] == EXITED:
            self._end_of(worker, Exit(answer[1], worker.pid))
        elif answer[0] == Outcome.RETURNED:
            self._happened(actor, Constructed(worker.number))
        else:
            payload = RayPayload(answer[2])
            self._happened(
                actor,
                ConstructionFailed(
                    worker.number, answer[1], lambda: construction_error(actor.name, payload)
                ),
            )

    def _answered(self, worker: Incarnation, number: int, answer: Any, value: Any) -> None:
        if isinstance(answer, BaseException):
            self._lost(worker, answer)
        elif answer[0] == EXITED:
            self._end_of(worker, Exit(answer[1], worker.pid))
        else:
            self._happened(
                worker.actor, Answered(worker.number, number, read_answer(answer, value))
            )

    def _lost(self, worker: Incarnation, error: BaseException) -> None:
        """A call came to nothing: because the process is gone, or an argument was lost."""
        if isinstance(error, self.ray.exceptions.RayActorError):
            return  # the vigil tells, and knows more
        self._end_of(worker, Exit(f"a call could not be made ({first_line(error)})", worker.pid))

    def _gone(self, worker: Incarnation) -> Told:
        return lambda error: self._end_of(worker, exit_of(worker, error))

    def _end_of(self, worker: Incarnation, how: Exit) -> None:
        """The incarnation is given up, whatever Ray still has of it."""
        actor = worker.actor
        if actor.worker is not worker:
            return
        if worker.killed_at is None:
            self.ray.kill(worker.remote, no_restart=True)
        actor.worker = None
        self._happened(actor, WorkerGone(worker.number, how))
        self.reactor.tick_soon()

    # Time

    def _tick(self, now: float) -> bool:
        busy = False
        for actor in list(self.actors.values()):
            if actor.supervisor.busy:
                busy = True
                self._look_after(actor, now)
                self.tell(actor, Tick(actor.worker.progress_at if actor.worker else 0.0))
            elif actor.worker is not None and actor.worker.killed_at is not None:
                busy = True
                self._confirm(actor.worker, now)
        self._handle_events()
        return busy

    def _confirm(self, worker: Incarnation, now: float) -> None:
        if worker.killed_at is not None and now - worker.killed_at > GONE_S:
            self._end_of(worker, Exit("SIGKILL (not confirmed by its node)", worker.pid))

    def _look_after(self, actor: RayActor, now: float) -> None:
        worker = actor.worker
        if worker is None:
            return
        self._confirm(worker, now)
        if actor.supervisor.phase is Phase.STARTING:
            if now - worker.began > PATIENT_S and now - worker.looked_at > LOOK_S:
                worker.looked_at = now
                self._look_for_room(actor, worker, now)
            return
        timeout = actor.step_timeout
        if timeout is None or now - worker.looked_at < min(timeout / 4, 60.0):
            return
        worker.looked_at = now
        asked = worker.remote.look.options(concurrency_group="questions").remote()
        self.watch(asked, lambda age: self._looked(worker, age))

    def _looked(self, worker: Incarnation, age: Any) -> None:
        if isinstance(age, float):
            worker.progress_at = max(worker.progress_at, time.monotonic() - age)

    def _look_for_room(self, actor: RayActor, worker: Incarnation, now: float) -> None:
        """Waiting for others to make room is no hang; waiting for what nobody has is an error."""
        needs = actor.spec.resources
        if not any(needs.values()):
            return
        there = room(self.ray)
        place = actor.spec.place
        if place is not None and isinstance(place.key, Bundle):
            if place.key.placed():
                worker.no_room_since = None
                return  # it has its room, and is starting
            worker.no_room_since = worker.no_room_since or now
        elif there.fits(needs):
            worker.no_room_since = None
            free = self.ray.available_resources()
            if all(free.get(name, 0) >= n for name, n in ray_resources(needs).items()):
                return  # it has its room, and is starting
        elif worker.no_room_since is None:
            worker.no_room_since = now
        worker.progress_at = now
        if not worker.warned:
            worker.warned = True
            logger.warning(
                "actor %r waits for %s; the cluster has %s.", actor.name, words(needs), there
            )
        since = worker.no_room_since
        if place is not None and isinstance(place.key, Unreserved) and place.key.patient:
            return
        if since is not None and now - since > self._options.placement_timeout:
            self.tell(actor, End(lambda: no_room(actor.name, needs, str(there))))

    def close(self) -> None:
        """Lets go of everything. Called without the lock."""
        with self.reactor.lock:
            for actor in self.actors.values():
                if actor.worker is not None:
                    with contextlib.suppress(Exception):
                        self.ray.kill(actor.worker.remote, no_restart=True)
            self.actors.clear()
        self.reactor.close()
        bell, self._bell = self._bell, -1
        os.close(bell)


def no_room(actor: str, needs: Mapping[str, float], there: str) -> ResourcesUnavailable:
    """For a request that no node of the cluster can hold."""
    return ResourcesUnavailable(
        f"actor {actor!r} asks for {words(needs)} on one node; the cluster has {there}. It could "
        "never start. Ask for less, add a node that has it, or raise runtime.placement_timeout "
        "where nodes are still to come."
    )
