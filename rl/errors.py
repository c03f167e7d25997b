"""Every error the platform raises on purpose, with the exit code a command line ends with.

    RLError                     1   a bug of ours, unless a subclass says otherwise
    ├── ConfigError             2   the settings: all problems at once, each with its path
    ├── UsageError              2   anything else the user asked for that cannot be done
    ├── EnvironmentFault        3   an environment raised, or broke its own contract
    ├── RuntimeFault            4   actors and workers
    │   ├── ActorError              a method of an actor raised; the remote traceback is the cause
    │   ├── ActorDied               the process behind an actor is gone
    │   ├── UnknownMethod           the actor has no such method
    │   ├── NotSerializable         an argument or result cannot travel
    │   ├── CallTimeout             no answer in time
    │   ├── Cancelled               the call was cancelled before it ran
    │   ├── ResourcesUnavailable    a request that can never be met
    │   └── RestartsExhausted       the restart budget is spent
    ├── Diverged                5   a loss or a parameter is not finite
    └── StorageError            6   disks
        └── CheckpointError         a checkpoint is damaged, foreign or newer

A message says what is wrong, where, why and how to mend it, in that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = [
    "ActorDied",
    "ActorError",
    "CallTimeout",
    "Cancelled",
    "CheckpointError",
    "ConfigError",
    "Diverged",
    "EnvironmentFault",
    "NotSerializable",
    "Problem",
    "RLError",
    "ResourcesUnavailable",
    "RestartsExhausted",
    "RuntimeFault",
    "StorageError",
    "UnknownMethod",
    "UsageError",
]


class RLError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the settings."""

    path: str
    """Dotted path of the setting, `env_runners.num`; empty when it concerns several."""
    message: str
    """What is wrong with it, why, and what to write instead."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(RLError, ValueError):
    """The settings do not make a run. `problems` holds every one of them."""

    exit_code = 2

    def __init__(self, subject: str, problems: Iterable[Problem]) -> None:
        self.subject = subject
        self.problems = tuple(problems)
        super().__init__(subject, self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.subject}: {self.problems[0]}"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        return f"{self.subject}: {len(self.problems)} problems{lines}"


class UsageError(RLError):
    """Something was asked for that cannot be done: a name, a path, a missing extra."""

    exit_code = 2


class EnvironmentFault(RLError):
    """An environment raised, the cause, or returned what its spaces forbid."""

    exit_code = 3
    user_traceback = ""
    """Of what the environment raised, as text: it survives a journey between processes."""


class RuntimeFault(RLError):
    """An actor, a worker or the machinery between them failed beyond its budget."""

    exit_code = 4


class ActorError(RuntimeFault):
    """A method of an actor raised. The remote traceback is the `__cause__`."""


class ActorDied(RuntimeFault):
    """The process behind an actor ended; the message tells its signal or exit code."""


class UnknownMethod(RuntimeFault):
    """The actor has no method of this name."""


class NotSerializable(RuntimeFault):
    """An argument or a result cannot travel between processes."""


class CallTimeout(RuntimeFault, TimeoutError):
    """A call gave no answer in the time it was given."""


class Cancelled(RuntimeFault):
    """The call was cancelled before it ran."""


class ResourcesUnavailable(RuntimeFault):
    """More was asked for than the machine or cluster will ever have."""


class RestartsExhausted(RuntimeFault):
    """An actor died more often than its restart budget allows."""


class Diverged(RLError):
    """A loss, gradient or parameter is no longer finite."""

    exit_code = 5
    rollouts: Sequence[Any] = ()
    """What was being learnt from, for whoever looks for the cause."""
    batch: Mapping[str, Any] = MappingProxyType({})
    """Arrays of the batch that was drawn from a replay, by name."""
    env_steps = 0
    """How many environment steps the run had taken by then."""


class StorageError(RLError):
    """Something could not be written or read."""

    exit_code = 6


class CheckpointError(StorageError):
    """A checkpoint is damaged, of another kind, or newer than this version."""
