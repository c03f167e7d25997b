"""What the driver keeps of each actor on Ray, and of the Ray actor it lives in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rl.core.runtime.base import ActorSpec
from rl.core.runtime.calls import CallFuture, StoredObject
from rl.core.runtime.exits import Exit
from rl.core.runtime.memory import NOTHING, Payload
from rl.core.runtime.ray_cluster import load_ray
from rl.core.runtime.ray_objects import INLINE_BYTES, Packed
from rl.core.runtime.ray_worker import Place
from rl.core.runtime.supervisor import Supervisor
from rl.core.runtime.wire import OUTCOMES, Outcome
from rl.errors import ActorDied

__all__ = [
    "Incarnation",
    "RayActor",
    "RayPayload",
    "Source",
    "exit_of",
    "first_line",
    "read_answer",
    "values_of",
]

Source = tuple[Place, CallFuture[Any] | StoredObject[Any]]
"""An argument that is a result or an object, and where it stands in the call."""


class RayPayload(Payload):
    """A value in Ray's object store, or a small one at hand."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        super().__init__(NOTHING.blob, None)
        self.value = value
        """An ObjectRef of a Packed, or a Packed."""

    def open(self) -> Any:
        """Fetches it to this node if need be. Raises `ActorDied` when it was lost with a node."""
        if isinstance(self.value, Packed):
            return self.value.load()
        ray = load_ray()
        try:
            packed = ray.get(self.value)
        except ray.exceptions.RayError as error:
            raise ActorDied(
                f"a result was lost with the node it lay on ({type(error).__name__}); make the "
                "call again."
            ) from error
        value: Any = packed.load()
        return value

    @classmethod
    def keep(cls, packed: Packed) -> RayPayload:
        """Copies what was packed here: into the message if it is small, else into the store."""
        if packed.num_bytes <= INLINE_BYTES:
            return cls(packed.snapshot())
        return cls(load_ray().put(packed))


class RayActor:
    """One actor as the driver keeps it."""

    def __init__(
        self,
        spec: ActorSpec[Any],
        supervisor: Supervisor,
        maker: tuple[RayPayload, RayPayload],
        extras: list[Source],
        step_timeout: float | None,
    ) -> None:
        self.name = supervisor.name
        self.step_timeout = step_timeout
        self.spec = spec
        self.class_name = spec.class_name
        self.supervisor = supervisor
        self.maker = maker
        self.extras = extras
        self.worker: Incarnation | None = None


class Incarnation:
    """One Ray actor, from the wish for it until it is gone."""

    def __init__(self, actor: RayActor, remote: Any) -> None:
        self.actor = actor
        self.number = actor.supervisor.incarnation
        self.remote = remote
        self.pid: int | None = None
        self.began = self.progress_at = self.looked_at = time.monotonic()
        self.no_room_since: float | None = None
        self.warned = False
        self.ending: str | None = None  # what it said of its end itself
        self.killed_at: float | None = None
        self.stacks: list[str] = []


def exit_of(worker: Incarnation, error: object) -> Exit:
    """How an incarnation ended, from what Ray says. It seldom says more than that it did."""
    if worker.killed_at is not None:
        return Exit("SIGKILL", worker.pid, tuple(worker.stacks))
    text = str(error)
    if "node has died" in text or "node was terminated" in text:
        return Exit("SIGKILL (its node died)", worker.pid)
    if isinstance(error, load_ray().exceptions.ActorUnavailableError):
        return Exit("SIGKILL (it could not be reached any more)", worker.pid)
    if "worker process has died" in text:
        return Exit("SIGKILL or a crash, Ray does not tell which", worker.pid)
    lines = text.strip().splitlines() or [type(error).__name__]
    return Exit(lines[-1].strip(), worker.pid)


def read_answer(answer: Any, value: Any) -> tuple[Outcome, RayPayload]:
    """From the two returns of a call: the first itself, and the reference to the second."""
    outcome, _, small = answer
    return OUTCOMES[outcome], RayPayload(value if small is None else small)


def values_of(extras: Sequence[Source]) -> tuple[list[Place], list[Any]]:
    """The places of arguments in a call, and what Ray is given for each."""
    values = []
    for _, source in extras:
        assert isinstance(source.payload, RayPayload)
        values.append(source.payload.value)
    return [place for place, _ in extras], values


def first_line(error: BaseException) -> str:
    """Of its message; Ray's go on for pages."""
    return str(error).strip().partition("\n")[0]
