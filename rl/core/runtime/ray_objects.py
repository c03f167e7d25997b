"""Values as Ray carries them: packed by us, so that what cannot travel is told in our words.

A `Packed` holds a pickle and, out of band, the buffers of its arrays; Ray puts those into its
object store without another copy, and they are read from there. It does not import ray.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from rl.core.runtime import wire

__all__ = ["INLINE_BYTES", "Packed", "pack_error"]

INLINE_BYTES = 64 * 1024
"""Up to here a value travels inside its message; Ray's own limit is 100 KiB for all of a call."""


class Packed:
    """A pickled value."""

    __slots__ = ("_body", "_buffers")

    def __init__(self, body: bytes, buffers: Sequence[Any]) -> None:
        self._body = body
        self._buffers = buffers

    @classmethod
    def of(cls, value: object) -> Packed:
        """Packs a value without copying its arrays. Raises what pickle raises."""
        return cls(*wire.dump(value))

    @property
    def num_bytes(self) -> int:
        """Of the pickle and its buffers."""
        return len(self._body) + sum(memoryview(part).nbytes for part in self._buffers)

    def load(self) -> Any:
        """The value, its arrays read-only and without a copy."""
        return pickle.loads(
            self._body, buffers=[memoryview(part).toreadonly() for part in self._buffers]
        )

    def snapshot(self) -> Packed:
        """A copy that does not change when the arrays do."""
        return Packed(self._body, [bytes(memoryview(part).cast("B")) for part in self._buffers])

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self._body, [pickle.PickleBuffer(part) for part in self._buffers])


def pack_error(error: BaseException) -> Packed:
    """As `wire.pack_error`."""
    return Packed.of(wire.describe_error(error))
