"""The actor contract: tasks, actors and objects, whatever engine runs them.

`runtime.spawn(EnvRunner, *args)` makes an actor and gives a typed handle to it; the unbound method
is the message: `handle.call(EnvRunner.sample, num_steps=128) -> Future[Rollout]`, so a renamed
method or a wrong argument is red in the editor. Calls on one actor run one at a time, in the order
they were made.

Futures and object references may be passed as arguments, at the top level of a call; the callee
receives the value (`future.as_argument()` says so to a type checker). Arrays may arrive read-only:
whoever writes, copies.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from rl.core.runtime.engines import check_timeout, make_engine
from rl.errors import ResourcesUnavailable, UsageError

__all__ = [
    "STRATEGIES",
    "ActorHandle",
    "ActorSpec",
    "Engine",
    "Future",
    "ObjectRef",
    "Place",
    "Runtime",
]

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

STRATEGIES = ("spread", "strict_spread", "pack", "strict_pack")
"""Of placing: on different nodes or on the same one; as far as can be, or strictly."""


class ObjectRef(ABC, Generic[R_co]):
    """A value that lives in the runtime."""

    @abstractmethod
    def result(self, timeout: float | None = None) -> R_co:
        """The value. Raises `CallTimeout` when it is not there within `timeout` seconds."""

    def as_argument(self) -> R_co:
        """Itself, for a type checker the value: what the callee is going to receive."""
        return cast("R_co", self)


class Future(ObjectRef[R_co]):
    """The promise of a result."""

    @abstractmethod
    def done(self) -> bool:
        """Whether `result` would return or raise at once."""

    @abstractmethod
    def cancel(self) -> bool:
        """Takes back a call that has not begun; `result` then raises `Cancelled`. Else False."""

    @abstractmethod
    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise, or None. Raises `CallTimeout` without an answer in time."""

    @abstractmethod
    def add_done_callback(self, callback: Callable[[Future[R_co]], object]) -> None:
        """Runs `callback(self)` once the future is done, at once if it is; never twice.

        It may run in a thread of the runtime, so it must be quick. What it raises is logged.
        """


class ActorHandle(ABC, Generic[T]):
    """A reference to one T that lives elsewhere."""

    name: str
    """Unique within its runtime; stands in every message about the actor."""

    @abstractmethod
    def call(
        self, method: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Sends a message to the actor; its errors arrive with the future.

        The future raises `ActorError` (the actor's own exception is its cause), `ActorDied`,
        `RestartsExhausted`, `UnknownMethod`, `NotSerializable` or `Cancelled`. After a death every
        call made before it raises; none is sent again, for the runtime cannot know what it would
        repeat.
        """

    @abstractmethod
    def kill(self) -> None:
        """Ends the actor at once, for good; its calls raise `ActorDied`. May be repeated."""

    @property
    @abstractmethod
    def restarts(self) -> int:
        """How often the actor was made anew; what it had learnt before is gone each time."""

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """The process it lives in now; None while there is none, and on engines without one."""


@dataclass(frozen=True)
class Place:
    """Room for one actor, from `Runtime.place`; its engine finds it by the key."""

    resources: Mapping[str, float]
    key: object = None


@dataclass(frozen=True)
class ActorSpec(Generic[T]):
    """Everything needed to make an actor, once or again."""

    actor_class: Callable[..., T]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    max_restarts: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] | None = None
    step_timeout: float | None = None
    place: Place | None = None

    @property
    def class_name(self) -> str:
        """How messages call the class."""
        made: object = self.actor_class
        while isinstance(made, functools.partial):
            made = made.func
        return getattr(made, "__name__", type(made).__name__)


class Engine(ABC):
    """What one engine has to do; `Runtime` is the face. Subclass it to bring your own."""

    name: str
    options: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def spawn(self, spec: ActorSpec[T]) -> ActorHandle[T]:
        """Makes an actor without waiting for it; its constructor's error comes with its calls."""

    @abstractmethod
    def submit(
        self, function: Callable[..., R], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[R]:
        """Runs a stateless task."""

    @abstractmethod
    def put(self, value: R) -> ObjectRef[R]:
        """Keeps a value."""

    def place(
        self, requests: Sequence[Mapping[str, float]], strategy: str, reserve: bool
    ) -> list[Place]:
        """Finds room for several actors; on one machine they are side by side, come what may."""
        if strategy == "strict_spread" and len(requests) > 1:
            raise ResourcesUnavailable(
                f"{len(requests)} actors shall have a machine each, and the engine {self.name!r} "
                "has one. Use the engine `ray` on a cluster, or `spread`."
            )
        return [Place(dict(request)) for request in requests]

    @abstractmethod
    def block(self, until: Callable[[], bool], timeout: float | None) -> bool:
        """Waits for `until()`, at most `timeout` seconds; returns what `until()` says then."""

    @abstractmethod
    def shutdown(self) -> None:
        """Ends every actor and gives every resource back. A second call does nothing."""


class Runtime:
    """Spawns actors, runs tasks and keeps objects on one engine. Also a context manager."""

    def __init__(
        self,
        engine: str | Engine = "inline",
        *,
        resources: Mapping[str, float] | None = None,
        step_timeout: float | None = None,
        **options: Any,
    ) -> None:
        """Starts the engine.

        Args:
            engine: `inline`, `process`, `ray`, or an `Engine` made with settings of its own.
            resources: What the machine has to give, `{"gpu": 2}`; the number of cores as `cpu`
                unless told.
            step_timeout: Seconds after which an actor that makes no progress in a call is killed
                and replaced; None waits for ever. `spawn` can set another for one actor. `inline`
                has no second process that could interrupt a call, and ignores it.
            **options: Of the engine; docs/cluster.md lists those of `ray`.

        Raises:
            UsageError: There is no such engine or option, a number is out of range, or settings
                were given beside an engine that is made already.
        """
        if isinstance(engine, str):
            self._engine = make_engine(engine, resources or {}, step_timeout, options)
        elif resources is None and step_timeout is None and not options:
            self._engine = engine
        else:
            raise UsageError(
                f"Runtime({type(engine).__name__}(...)): settings have no effect on an engine that "
                "is made already. Give them to the engine."
            )

    @property
    def engine(self) -> str:
        """Name of the engine."""
        return self._engine.name

    def place(
        self,
        requests: Sequence[Mapping[str, float]],
        strategy: str = "spread",
        reserve: bool = True,
    ) -> list[Place]:
        """Finds room for several actors at once; `spawn(place=...)` puts one into each.

        Args:
            requests: What each takes, `{"cpu": 1}`.
            strategy: `spread` over the nodes or `pack` on few, as far as can be; or `strict_...`.
            reserve: Now, and for all; otherwise each actor waits for room, however long.

        Raises:
            ResourcesUnavailable: The nodes there are have no such room.
            UsageError: There is no such strategy.
        """
        if strategy not in STRATEGIES:
            raise UsageError(f"place: strategy {strategy!r} is none of {', '.join(STRATEGIES)}.")
        return self._engine.place(requests, strategy, reserve)

    def spawn(
        self,
        actor_class: Callable[..., T],
        /,
        *args: Any,
        name: str | None = None,
        resources: Mapping[str, float] | None = None,
        max_restarts: int = 0,
        environment: Mapping[str, str] | None = None,
        preload: Sequence[str] | None = None,
        step_timeout: float | None = None,
        place: Place | None = None,
        **kwargs: Any,
    ) -> ActorHandle[T]:
        """Makes an actor; an error of its constructor arrives with the first call.

        Args:
            actor_class: What makes it: a class, or a function that returns it.
            *args: Of the constructor; futures and references are replaced by their values.
            name: Unique name of the actor, used in messages.
            resources: What it takes while it lives, `{"cpu": 1.0}`; nothing unless told. More than
                there is raises `ResourcesUnavailable`; more than is free now makes it wait, with a
                warning.
            max_restarts: How often within ten minutes a dead actor is made anew, with these same
                arguments.
            environment: Environment variables of its process, set before any import there.
            preload: Modules its process has imported before it starts; by default `("torch",)` if
                the module of the class uses torch.
            step_timeout: In place of the runtime's.
            place: Where it is put; it takes the resources of that place.
            **kwargs: Of the constructor; one that is called like an option here goes through
                `functools.partial`.
        """
        check_timeout(step_timeout)
        if max_restarts < 0:
            raise UsageError(f"spawn: max_restarts is {max_restarts}; it must be 0 or more.")
        if place is not None and resources is not None:
            raise UsageError("spawn: a place has its resources; give one of the two.")
        return self._engine.spawn(
            ActorSpec(
                actor_class=actor_class,
                args=args,
                kwargs=kwargs,
                name=name,
                resources=dict((place.resources if place else resources) or {}),
                max_restarts=max_restarts,
                environment=dict(environment or {}),
                preload=None if preload is None else tuple(preload),
                step_timeout=step_timeout,
                place=place,
            )
        )

    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Runs a stateless task on any free worker; it fails as a call does."""
        return self._engine.submit(function, args, kwargs)

    def put(self, value: R) -> ObjectRef[R]:
        """Keeps a value, so that many calls can be given it for the price of one copy."""
        return self._engine.put(value)

    @overload
    def get(self, refs: ObjectRef[R], timeout: float | None = None) -> R: ...
    @overload
    def get(self, refs: Sequence[ObjectRef[R]], timeout: float | None = None) -> list[R]: ...
    def get(
        self, refs: ObjectRef[R] | Sequence[ObjectRef[R]], timeout: float | None = None
    ) -> R | list[R]:
        """The value of a future or reference, or of each of several, within `timeout` seconds."""
        if isinstance(refs, ObjectRef):
            return refs.result(timeout)
        pending = [ref for ref in refs if isinstance(ref, Future)]
        if timeout is not None:
            self.wait(pending, num_returns=len(pending), timeout=timeout)
        return [ref.result(None if timeout is None else 0) for ref in refs]

    def wait(
        self,
        futures: Sequence[Future[Any]],
        num_returns: int = 1,
        timeout: float | None = None,
    ) -> tuple[list[Future[Any]], list[Future[Any]]]:
        """Blocks until `num_returns` of the futures are done or `timeout` seconds have passed.

        Returns the done ones, at most `num_returns`, and the rest, both in the order given. Raises
        `UsageError` when asked for more than there are, or twice for the same one.
        """
        if num_returns > len(futures):
            raise UsageError(
                f"runtime.wait: num_returns is {num_returns}, but only {len(futures)} futures were "
                "given; it would wait for ever. Ask for at most as many as there are."
            )
        if len({id(future) for future in futures}) != len(futures):
            raise UsageError("runtime.wait: the same future was given twice. Give each once.")
        counter = _DoneCounter(futures)
        self._engine.block(lambda: counter.at_least(num_returns), timeout)
        ready = [future for future in futures if future.done()][:num_returns]
        taken = {id(future) for future in ready}
        return ready, [future for future in futures if id(future) not in taken]

    def shutdown(self) -> None:
        """Ends every actor and gives every resource back. A second call does nothing."""
        self._engine.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()


class _DoneCounter:
    """Asks each future only until it is done: long lists stay cheap."""

    def __init__(self, futures: Sequence[Future[Any]]) -> None:
        self._pending = list(futures)
        self._done = 0

    def at_least(self, number: int) -> bool:
        still = [future for future in self._pending if not future.done()]
        self._done += len(self._pending) - len(still)
        self._pending = still
        return self._done >= number
