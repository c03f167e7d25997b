"""The inline engine: actors are plain objects here; a debugger steps from call into method.

A call has run when `call` returns; its future holds the result or the error. Values are passed as
they are, not copied.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from rl.core.runtime.base import ActorHandle, ActorSpec, Engine, Future, ObjectRef
from rl.core.runtime.failures import CONSTRUCTOR, actor_error, killed, shut_down, unknown_method
from rl.core.runtime.resources import ResourceLedger
from rl.errors import ActorDied, RestartsExhausted, UsageError

__all__ = ["InlineEngine"]

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

logger = logging.getLogger(__name__)


class InlineEngine(Engine):
    """Runs everything in the calling thread."""

    name = "inline"

    def __init__(
        self, *, resources: Mapping[str, float] | None = None, step_timeout: float | None = None
    ) -> None:
        self._ledger = ResourceLedger(resources or {})
        self._actors: dict[str, _InlineHandle[Any]] = {}
        self._spawned = 0
        self._closed = False

    def spawn(self, spec: ActorSpec[T]) -> ActorHandle[T]:
        """Constructs the actor. Resources are checked against the total: nothing runs beside it."""
        self._check_open()
        name = spec.name or f"{spec.class_name}-{self._spawned}"
        if name in self._actors:
            raise UsageError(f"an actor called {name!r} exists already; give each its own name.")
        self._ledger.check(spec.resources, name)
        self._spawned += 1
        handle = _InlineHandle(spec, name, lambda: self._actors.pop(name, None))
        self._actors[name] = handle
        handle.construct()
        return handle

    def submit(
        self, function: Callable[..., R], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[R]:
        """Runs the task now."""
        self._check_open()
        name = _name_of(function)
        return _run("task", name, lambda: function(*_values(args), **_named_values(kwargs)))

    def put(self, value: R) -> ObjectRef[R]:
        """Keeps the value itself, no copy."""
        self._check_open()
        return _InlineFuture(value, None)

    def block(self, until: Callable[[], bool], timeout: float | None) -> bool:
        """Everything has run already."""
        return until()

    def shutdown(self) -> None:
        """Drops every actor."""
        self._closed = True
        for handle in list(self._actors.values()):
            handle.end(shut_down(handle.name))
        self._actors.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this runtime was shut down; make a new Runtime to go on.")


class _InlineFuture(Future[R_co]):
    """A result that is there."""

    def __init__(self, value: R_co | None, error: BaseException | None) -> None:
        self._value = value
        self._error = error

    def result(self, timeout: float | None = None) -> R_co:
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # None only beside an error, or as the value

    def done(self) -> bool:
        return True

    def cancel(self) -> bool:
        return False

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return self._error

    def add_done_callback(self, callback: Callable[[Future[R_co]], object]) -> None:
        try:
            callback(self)
        except Exception:
            logger.exception("a done callback raised")


class _InlineHandle(ActorHandle[T], Generic[T]):
    """An actor in this process; it dies only by SystemExit, as a process would."""

    def __init__(self, spec: ActorSpec[T], name: str, on_end: Callable[[], object]) -> None:
        self.name = name
        self._spec = spec
        self._on_end = on_end
        self._actor: T | None = None
        self._failed: BaseException | None = None
        self._restarts = 0

    def construct(self) -> None:
        """Makes the actor; a failure is kept for its calls."""
        spec = self._spec
        made: Future[T] = _run(
            self.name,
            CONSTRUCTOR,
            lambda: spec.actor_class(*_values(spec.args), **_named_values(spec.kwargs)),
        )
        self._failed = made.exception()
        self._actor = made.result() if self._failed is None else None

    def call(
        self, method: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        if self._failed is not None:
            return _InlineFuture(None, self._failed)
        name = _name_of(method)
        bound = getattr(self._actor, name, None)
        if not callable(bound):
            names = [word for word in dir(self._actor) if not word.startswith("_")]
            return _InlineFuture(
                None, unknown_method(self.name, self._spec.class_name, name, names)
            )
        future: Future[R] = _run(
            self.name, name, lambda: bound(*_values(args), **_named_values(kwargs))
        )
        if future.exception() is not None and _exited(future):
            return self._restart(future)
        return future

    def _restart(self, future: Future[R]) -> Future[R]:
        if self._restarts < self._spec.max_restarts:
            self._restarts += 1
            self.construct()
            return future
        error = future.exception()
        assert error is not None
        if self._spec.max_restarts:
            exhausted = RestartsExhausted(
                f"{error} It was restarted {self._restarts} times, which is its budget; raise "
                "max_restarts, or mend what ends it."
            )
            exhausted.__cause__ = error.__cause__
            error = exhausted
        self._failed, self._actor = error, None
        return _InlineFuture(None, error)

    def kill(self) -> None:
        self.end(killed(self.name))

    def end(self, error: BaseException) -> None:
        """Drops the actor; later calls raise `error`, unless an earlier end has its own."""
        self._on_end()
        if self._actor is not None or self._failed is None:
            self._failed = error
        self._actor = None

    @property
    def restarts(self) -> int:
        return self._restarts

    @property
    def pid(self) -> int | None:
        return None


def _run(actor: str, method: str, body: Callable[[], R]) -> Future[R]:
    try:
        return _InlineFuture(body(), None)
    except _FailedArgumentError as failed:
        return _InlineFuture(None, failed.error)
    except SystemExit as exit_request:
        died = ActorDied(f"actor {actor!r}: {method!r} ended it: exit code {exit_request.code}.")
        died.__cause__ = exit_request
        return _InlineFuture(None, died)
    except Exception as original:
        error = actor_error(actor, method, type(original).__name__, str(original))
        error.__cause__ = original
        return _InlineFuture(None, error)


def _name_of(function: Callable[..., Any]) -> str:
    name: str | None = getattr(function, "__name__", None)
    return repr(function) if name is None else name


def _exited(future: Future[Any]) -> bool:
    """Whether this very call ended the actor, rather than an argument of it that had failed."""
    error = future.exception()
    return isinstance(error, ActorDied) and isinstance(error.__cause__, SystemExit)


class _FailedArgumentError(Exception):
    """An argument is the future of something that failed; `error` is its error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def _value(arg: Any) -> Any:
    if not isinstance(arg, ObjectRef):
        return arg
    try:
        return arg.result()
    except Exception as error:
        raise _FailedArgumentError(error) from error


def _values(args: tuple[Any, ...]) -> list[Any]:
    return [_value(arg) for arg in args]


def _named_values(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(arg) for name, arg in kwargs.items()}
