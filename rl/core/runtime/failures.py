"""The errors of actors, worded once, so that every engine tells the same story."""

from __future__ import annotations

import difflib

from rl.errors import ActorDied, ActorError, CallTimeout, Cancelled, UnknownMethod

__all__ = [
    "RemoteTraceback",
    "actor_error",
    "call_timeout",
    "cancelled",
    "killed",
    "remote_cause",
    "shut_down",
    "unknown_method",
]

CONSTRUCTOR = "__init__"
"""How messages call the construction of an actor."""


class RemoteTraceback(Exception):
    """The traceback of another process, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text.rstrip()}\n"


def actor_error(actor: str, method: str, kind: str, message: str) -> ActorError:
    """For an exception of the user's own code; the caller sets the `__cause__`."""
    what = "its constructor" if method == CONSTRUCTOR else f"method {method!r}"
    first_line = message.strip().splitlines()[0] if message.strip() else ""
    return ActorError(
        f"actor {actor!r}: {what} raised {kind}{': ' if first_line else ''}{first_line}. "
        "Its traceback stands above as the cause; mend the code it points to."
    )


def remote_cause(original: BaseException | None, text: str) -> BaseException:
    """The cause of an error from elsewhere: the original, caused by the remote traceback."""
    if original is None:
        return RemoteTraceback(text)
    original.__cause__ = RemoteTraceback(text)
    return original


def unknown_method(actor: str, class_name: str, method: str, names: list[str]) -> UnknownMethod:
    """For a message the actor does not understand."""
    near = difflib.get_close_matches(method, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownMethod(
        f"actor {actor!r}: {class_name} has no method {method!r}.{hint} "
        "Pass an unbound method of its class, as in handle.call(Class.method)."
    )


def call_timeout(actor: str, method: str, timeout: float) -> CallTimeout:
    """For a result that is not there yet; the call goes on."""
    return CallTimeout(
        f"actor {actor!r}: no answer to {method!r} within {timeout:g} s. The call goes on: wait "
        "longer, or give the runtime a step_timeout, which replaces an actor that hangs."
    )


def cancelled(actor: str, method: str) -> Cancelled:
    """For a call taken back."""
    return Cancelled(f"actor {actor!r}: the call of {method!r} was cancelled before it began.")


def killed(actor: str) -> ActorDied:
    """For calls on an actor its owner killed."""
    return ActorDied(
        f"actor {actor!r}: it was killed with handle.kill(). Spawn another one to go on."
    )


def shut_down(actor: str) -> ActorDied:
    """For calls that the end of the runtime cut short."""
    return ActorDied(
        f"actor {actor!r}: its runtime was shut down. Take results before runtime.shutdown()."
    )
