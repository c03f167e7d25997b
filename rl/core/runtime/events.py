"""What happens to an actor, and what is to be done about it: the words of the supervisor."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from rl.core.runtime.exits import Exit

__all__ = [
    "Answered",
    "BecameReady",
    "Begin",
    "Call",
    "CancelAsked",
    "Construct",
    "Constructed",
    "ConstructionFailed",
    "Deliver",
    "DumpStacks",
    "End",
    "Event",
    "Fail",
    "Instruction",
    "KillAsked",
    "KillWorker",
    "Over",
    "Send",
    "StartWorker",
    "Submitted",
    "Tick",
    "Warn",
    "Withdrawn",
    "WorkerGone",
    "WorkerUp",
]


class Call:
    """One call; engines subclass it to carry what they need."""

    __slots__ = ("method", "number", "ready")

    def __init__(self, method: str, *, ready: bool = True) -> None:
        self.method = method
        self.ready = ready
        """Whether its arguments are all there; until then it holds back the calls behind it."""
        self.number = 0
        """Its place in the order of sending, from 1; 0 before."""


class Begin(NamedTuple):
    """Resources are there: start."""


class Submitted(NamedTuple):
    """A call was made."""

    call: Call


class BecameReady(NamedTuple):
    """The arguments of a call are all there."""

    call: Call


class Withdrawn(NamedTuple):
    """A call that cannot be made any more: an argument failed."""

    call: Call
    error: BaseException


class CancelAsked(NamedTuple):
    """For a call that may not have been sent yet; a sent one stays."""

    call: Call


class WorkerUp(NamedTuple):
    """Its process listens."""

    incarnation: int


class Constructed(NamedTuple):
    """The actor is made."""

    incarnation: int


class ConstructionFailed(NamedTuple):
    """The constructor raised."""

    incarnation: int
    key: str
    """Tells one failure from another: type and place of the error."""
    error: Callable[[], BaseException]
    """Makes the error, afresh for each call that it fails."""


class Answered(NamedTuple):
    """A call has ended."""

    incarnation: int
    number: int
    answer: object = None
    """Passed on with `Deliver`, unread."""


class WorkerGone(NamedTuple):
    """Its process is reaped: nothing of it can write any more."""

    incarnation: int
    exit: Exit


class Tick(NamedTuple):
    """Time passes; `progress_at` is when the worker last came further."""

    progress_at: float = 0.0


class KillAsked(NamedTuple):
    """The owner is done with it."""


class End(NamedTuple):
    """The runtime shuts down; the error is made for each call that was left."""

    error: Callable[[], BaseException]


Event: TypeAlias = (
    Begin
    | Submitted
    | BecameReady
    | Withdrawn
    | CancelAsked
    | WorkerUp
    | Constructed
    | ConstructionFailed
    | Answered
    | WorkerGone
    | Tick
    | KillAsked
    | End
)


class StartWorker(NamedTuple):
    """Start a process."""

    incarnation: int


class Construct(NamedTuple):
    """Tell the process what to make."""

    incarnation: int


class Send(NamedTuple):
    """Send a call to the worker."""

    call: Call


class Deliver(NamedTuple):
    """The answer of the event belongs to this call."""

    call: Call
    answer: object = None


class Fail(NamedTuple):
    """The call gets an error instead of an answer."""

    call: Call
    error: BaseException


class DumpStacks(NamedTuple):
    """Make the worker write down where it is."""

    incarnation: int


class KillWorker(NamedTuple):
    """End the process; `WorkerGone` follows."""

    incarnation: int


class Warn(NamedTuple):
    """Tell the user."""

    text: str


class Over(NamedTuple):
    """The actor has no process and will have none: its resources are free."""


Instruction: TypeAlias = (
    StartWorker | Construct | Send | Deliver | Fail | DumpStacks | KillWorker | Warn | Over
)
