"""The handle of an actor in another process, whichever engine keeps it there."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from rl.core.runtime.base import ActorHandle, Engine, Future
from rl.core.runtime.conductor import Supervised

__all__ = ["RemoteHandle", "shut_down_at_exit"]

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class _Worker(Protocol):
    @property
    def pid(self) -> int | None: ...


class _Hosted(Supervised, Protocol):
    """An actor that has a worker while it lives."""

    @property
    def worker(self) -> _Worker | None: ...


class _Keeper(Protocol):
    """An engine that keeps actors elsewhere."""

    def call(
        self, actor: Any, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]: ...

    def kill(self, actor: Any) -> None: ...


class RemoteHandle(ActorHandle[T], Generic[T]):
    """A reference to an actor in another process."""

    def __init__(self, engine: _Keeper, actor: _Hosted) -> None:
        self.name = actor.name
        self._engine = engine
        self._actor = actor

    def call(
        self, method: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        name: str = getattr(method, "__name__", None) or repr(method)
        return self._engine.call(self._actor, name, args, kwargs)

    def kill(self) -> None:
        self._engine.kill(self._actor)

    @property
    def restarts(self) -> int:
        return self._actor.supervisor.incarnation

    @property
    def pid(self) -> int | None:
        worker = self._actor.worker
        return worker.pid if worker is not None else None

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(
            "a handle stays in the process that spawned the actor; pass results instead"
        )


def shut_down_at_exit(engine: Engine) -> Callable[[], object]:
    """Has an engine that is still there ended with the interpreter; returns what is registered."""
    reference = weakref.ref(engine)

    def shut_down() -> None:
        alive = reference()
        if alive is not None:
            alive.shutdown()

    return atexit.register(shut_down)
