"""Tasks, actors and objects on an engine."""

from rl.core.runtime.base import ActorHandle, ActorSpec, Engine, Future, ObjectRef, Place, Runtime
from rl.core.runtime.board import note_progress

__all__ = [
    "ActorHandle",
    "ActorSpec",
    "Engine",
    "Future",
    "ObjectRef",
    "Place",
    "Runtime",
    "note_progress",
]
