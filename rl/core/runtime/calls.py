"""Calls between processes, the promises of their results, and objects, as the driver holds them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from rl.core.runtime.base import Future, ObjectRef
from rl.core.runtime.events import Call
from rl.core.runtime.failures import actor_error, call_timeout, remote_cause, unknown_method
from rl.core.runtime.memory import NOTHING, Payload
from rl.core.runtime.wire import Outcome
from rl.errors import NotSerializable, RuntimeFault, UsageError

__all__ = ["CallFuture", "CallHost", "RemoteCall", "StoredObject", "split_arguments"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Place = int | str


class CallHost(Protocol):
    """What futures need of their engine."""

    def block(self, until: Callable[[], bool], timeout: float | None) -> bool:
        """Waits for `until()`, at most `timeout` seconds; returns what it says then."""

    @property
    def lock(self) -> threading.RLock:
        """Guards what futures and supervisors share."""

    def run_soon(self, callback: Callable[[], object]) -> None:
        """Keeps a user's callback until the lock is free."""

    def settled(self) -> None:
        """Something was settled outside the loop."""


class StoredObject(ObjectRef[R_co]):
    """A value that was put."""

    def __init__(self, payload: Payload) -> None:
        self.payload = payload
        self._opened: list[R_co] = []

    def result(self, timeout: float | None = None) -> R_co:
        if not self._opened:
            self._opened.append(self.payload.open())
        return self._opened[0]


class RemoteCall(Call):
    """A call with its arguments; they are dropped once it is sent."""

    __slots__ = (
        "_future",
        "actor",
        "arguments",
        "class_name",
        "extras",
        "message",
        "withdraw",
    )

    def __init__(
        self, actor: str, class_name: str, method: str, message: str | None = None
    ) -> None:
        super().__init__(method)
        self.actor = actor
        self.class_name = class_name
        self.message = message or method
        """The method that is called; a task is a message `run`, and `method` is the name of its
        function."""
        self.withdraw: Callable[[], bool] = _never
        """Takes the call back from whoever has it; False when it has begun."""
        self.arguments: Payload | None = None
        self.extras: list[tuple[Place, CallFuture[Any] | StoredObject[Any]]] = []
        self._future: CallFuture[Any] | None = None

    @property
    def future(self) -> CallFuture[Any]:
        """The promise of its result; only until it is finished."""
        assert self._future is not None
        return self._future

    def promise(self, host: CallHost) -> CallFuture[Any]:
        """Makes the future; once."""
        self._future = CallFuture(host, self)
        return self._future

    def settle(self, outcome: Outcome, payload: Payload) -> None:
        """Hands the answer to the future; one that failed before, as by a cancel, stays so."""
        if self._future is not None:
            self._future.settle(outcome, payload)

    def fail(self, error: BaseException) -> None:
        """Hands an error to the future."""
        if self._future is not None:
            self._future.fail(error)

    def let_go(self) -> None:
        """Forgets the future and all else: a cycle would keep results until collected."""
        self._future, self.withdraw = None, _never
        self.arguments, self.extras = None, []


def _never() -> bool:
    return False


class CallFuture(Future[R_co]):
    """The promise of a result. `settle` and `fail` are called with the reactor's lock held."""

    __slots__ = (
        "_answer",
        "_callbacks",
        "_dependents",
        "_error",
        "_finished",
        "_host",
        "_opening",
        "_value",
        "call",
        "payload",
    )

    def __init__(self, host: CallHost, call: RemoteCall) -> None:
        self.call = call
        self.payload: Payload | None = None
        """What other calls are given of a result that was returned."""
        self._host = host
        self._finished = False
        self._answer: tuple[Outcome, Payload] | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._opening = threading.Lock()
        self._callbacks: list[Callable[[Future[R_co]], object]] = []
        self._dependents: list[Callable[[CallFuture[Any]], object]] = []

    def result(self, timeout: float | None = None) -> R_co:
        self._wait(timeout)
        if self._answer is not None:
            self._open()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._wait(timeout)
        if self._answer is not None:
            self._open()
        return self._error

    def done(self) -> bool:
        return self._finished

    def cancel(self) -> bool:
        with self._host.lock:
            taken_back = not self._finished and self.call.withdraw()
        self._host.settled()
        return taken_back

    def add_done_callback(self, callback: Callable[[Future[R_co]], object]) -> None:
        with self._opening:
            if not self._finished:
                self._callbacks.append(callback)
                return
        self._host.run_soon(lambda: callback(self))
        self._host.settled()

    # For the engine

    def settle(self, outcome: Outcome, payload: Payload) -> None:
        """The answer is here; it is opened when somebody wants to see it."""
        if not self._finished:
            if payload is not NOTHING:  # else the value is None already
                self._answer = (outcome, payload)
            self.payload = payload if outcome is Outcome.RETURNED else None
            self._finish()

    def fail(self, error: BaseException) -> None:
        """There will be no answer."""
        if not self._finished:
            self._error = error
            self._finish()

    def when_finished(self, dependent: Callable[[CallFuture[Any]], object]) -> None:
        """Tells a call that waits for this result; at once if it is here."""
        if self._finished:
            dependent(self)
        else:
            self._dependents.append(dependent)

    def _finish(self) -> None:
        self.call.let_go()
        with self._opening:
            self._finished = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._host.run_soon(lambda callback=callback: callback(self))  # type: ignore[misc]
        dependents, self._dependents = self._dependents, []
        for dependent in dependents:
            dependent(self)

    def _wait(self, timeout: float | None) -> None:
        if not self._finished and not self._host.block(self.done, timeout):
            raise call_timeout(self.call.actor, self.call.method, timeout or 0.0)

    def _open(self) -> None:
        with self._opening:
            if self._answer is None:
                return
            outcome, payload = self._answer
            try:
                if outcome is Outcome.RETURNED:
                    self._value = payload.open()
                else:
                    self._error = _error_of(self.call, outcome, payload)
            except RuntimeFault as error:  # it was lost with the machine it lay on
                self._error = error
            except Exception as error:
                self._error = NotSerializable(
                    f"actor {self.call.actor!r}: the result of {self.call.method!r} cannot be read "
                    f"here ({type(error).__name__}: {error}). Return plain data, or make its "
                    "module importable."
                )
                self._error.__cause__ = error
            self._answer = None


def _error_of(call: RemoteCall, outcome: Outcome, payload: Payload) -> BaseException:
    if outcome is Outcome.UNKNOWN_METHOD:
        return unknown_method(call.actor, call.class_name, call.method, payload.open())
    original, kind, message, text = payload.open()
    if outcome is Outcome.RAISED:
        error: BaseException = actor_error(call.actor, call.method, kind, message)
    elif outcome is Outcome.RESULT_STUCK:
        error = NotSerializable(
            f"actor {call.actor!r}: the result of {call.method!r} cannot travel to another process "
            f"({kind}: {message}). Return plain data: numbers, arrays, dataclasses of them."
        )
    else:
        error = NotSerializable(
            f"actor {call.actor!r}: an argument of {call.method!r} cannot be read in its process "
            f"({kind}: {message}). Its class must be importable there."
        )
    error.__cause__ = remote_cause(original, text)
    return error


def split_arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[
    tuple[Any, ...], dict[str, Any], list[tuple[Place, CallFuture[Any] | StoredObject[Any]]]
]:
    """Takes futures and references out of the top level; the callee puts their values back in."""
    extras: list[tuple[Place, CallFuture[Any] | StoredObject[Any]]] = []
    if not args and not kwargs:
        return (), {}, extras
    places: list[tuple[Place, Any]] = [*enumerate(args), *kwargs.items()]
    for place, value in places:
        if isinstance(value, CallFuture | StoredObject):
            extras.append((place, value))
        elif isinstance(value, ObjectRef):
            raise UsageError(
                f"argument {place} is a reference of another engine; take its value with result() "
                "first."
            )
    if not extras:
        return args, dict(kwargs), extras
    taken = {place for place, _ in extras}
    plain = tuple(None if place in taken else value for place, value in enumerate(args))
    named = {name: value for name, value in kwargs.items() if name not in taken}
    return plain, named, extras
