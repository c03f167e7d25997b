"""Tasks, actors and objects on an engine."""

from rl.core.runtime.base import ActorHandle, ActorSpec, Engine, Future, ObjectRef, Runtime
from rl.core.runtime.board import note_progress

__all__ = ["ActorHandle", "ActorSpec", "Engine", "Future", "ObjectRef", "Runtime", "note_progress"]
