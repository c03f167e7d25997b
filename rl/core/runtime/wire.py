"""What stands on the wire: values as blobs, messages as short tuples.

A blob is a pickle with its arrays out of band. A small one travels inside its message; of a large
one only the place travels, its bytes lie in a shared segment and are read there without a copy.
Pickle is safe here because both ends are one user's processes, on sockets that nobody else can
open.
"""

from __future__ import annotations

import enum
import pickle
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import cloudpickle
import numpy as np

from rl.core.runtime.segments import Bytes, Segment
from rl.errors import NotSerializable

__all__ = [
    "Blob",
    "Kind",
    "describe_error",
    "dump",
    "find_unpicklable",
    "pack",
    "pack_error",
    "segment_in",
    "unpack",
]

InlineBlob: TypeAlias = tuple[bytes, tuple[bytes, ...]]
"""The pickle and its buffers."""
SegmentBlob: TypeAlias = tuple[int, tuple[tuple[int, int], ...]]
"""The id of a segment, and (offset, length) of the pickle and of each buffer in it."""
Blob: TypeAlias = InlineBlob | SegmentBlob

INLINE_BYTES = 32 * 1024
"""Up to here two copies through a socket are cheaper than the bookkeeping of a segment."""
NOTHING: InlineBlob = (pickle.dumps(None, protocol=5), ())
"""The most frequent result of all."""
PLAIN = frozenset({bool, int, float, str, bytes, type(None)})
"""What pickle packs as cloudpickle does, in a fraction of the time; in short containers too."""
NUMBERS = frozenset("biufc")
"""Kinds of arrays that have no objects in them, and are as plain."""
FEW = 8
ALIGNMENT = 64
"""Of each array in a segment: a cache line, and what vector instructions like."""


class Kind(enum.IntEnum):
    """First entry of every message."""

    HELLO = 0
    """Worker: I am here."""
    CONSTRUCT = 1
    """Driver: name, class and arguments."""
    CONSTRUCTED = 2
    CONSTRUCTION_FAILED = 3
    CALL = 4
    ANSWER = 5
    NOTE = 6
    """Driver: segments given back, and segments to forget."""
    STOP = 7
    CALLS = 8
    """Driver: several calls."""


class Outcome(enum.IntEnum):
    """How a call ended in the worker."""

    RETURNED = 0
    RAISED = 1
    UNKNOWN_METHOD = 2
    RESULT_STUCK = 3
    """The result cannot be pickled."""
    ARGUMENT_STUCK = 4
    """An argument cannot be unpickled."""
    SKIPPED = 5


OUTCOMES = tuple(Outcome)
"""By number."""


def pack(value: object, take: Callable[[int], Segment]) -> Blob:
    """Pickles `value`, a large one into a segment from `take(size)`. Raises what pickle raises."""
    if value is None:
        return NOTHING
    body, buffers = dump(value)
    if not buffers and len(body) <= INLINE_BYTES:
        return body, ()
    raws: list[bytes | memoryview] = [body, *buffers]
    if sum(memoryview(raw).nbytes for raw in raws) <= INLINE_BYTES:
        return body, tuple(bytes(raw) for raw in raws[1:])
    spans: list[tuple[int, int]] = []
    end = 0
    for raw in raws:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        end = start + memoryview(raw).nbytes
        spans.append((start, end - start))
    segment = take(end)
    with memoryview(segment.memory) as memory:
        for raw, (start, length) in zip(raws, spans, strict=True):
            memory[start : start + length] = raw
    return segment.id, tuple(spans)


def dump(value: object) -> tuple[bytes, list[memoryview]]:
    """Pickles `value`, its arrays out of band and not copied. Raises what pickle raises."""
    buffers: list[pickle.PickleBuffer] = []
    dumps = pickle.dumps if _is_plain(value) else cloudpickle.dumps
    body = dumps(value, protocol=5, buffer_callback=buffers.append)
    return body, [buffer.raw() for buffer in buffers]


def _is_plain(value: object) -> bool:
    if type(value) in PLAIN:
        return True
    if type(value) is np.ndarray:
        return value.dtype.kind in NUMBERS
    if type(value) is tuple:
        return len(value) <= FEW and all(map(_is_plain, value))
    if type(value) is dict:
        return len(value) <= FEW and all(map(_is_plain, (*value, *value.values())))
    return False


def unpack(blob: Blob, view: Callable[[int], Bytes]) -> Any:
    """The value of a blob; its arrays are read-only. `view(id)` gives the bytes of a segment."""
    segment_id = segment_in(blob)
    if segment_id is None:
        return pickle.loads(blob[0], buffers=blob[1])  # type: ignore[arg-type]
    memory = memoryview(view(segment_id))  # type: ignore[arg-type]  # a buffer from 3.12 on
    parts = [memory[start : start + length] for start, length in blob[1]]
    return pickle.loads(parts[0], buffers=parts[1:])


def segment_in(blob: Blob) -> int | None:
    """The id of the segment a blob lies in, if any."""
    place = blob[0]
    return place if isinstance(place, int) else None


def find_unpicklable(
    what: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception
) -> NotSerializable:
    """Says which argument it was that pickle refused with `error`."""
    named = [(str(place), arg) for place, arg in enumerate(args)] + list(kwargs.items())
    culprits = []
    for name, arg in named:
        try:
            cloudpickle.dumps(arg, protocol=5)
        except Exception as refusal:
            reason = str(refusal).splitlines()[0] if str(refusal) else type(refusal).__name__
            culprits.append(f"argument {name} ({type(arg).__name__}: {reason})")
    found = NotSerializable(
        f"{what}: {'; '.join(culprits) or f'its arguments ({error})'} cannot travel to another "
        "process. Pass what it is made from and make it there; futures and references go at the "
        "top level of a call, not inside a list."
    )
    found.__cause__ = error
    return found


def pack_error(error: BaseException, take: Callable[[int], Segment]) -> Blob:
    """Packs what `describe_error` says."""
    return pack(describe_error(error), take)


def describe_error(error: BaseException) -> tuple[BaseException | None, str, str, str]:
    """(original or None, its type, its message, its traceback as text).

    The original is None when its class does not survive the journey: many exceptions cannot be made
    again from their `args`.
    """
    text = "".join(traceback.format_exception(error))
    try:
        original: BaseException | None = error.with_traceback(None)
        pickle.loads(cloudpickle.dumps(original))
    except Exception:
        original = None
    return original, type(error).__name__, str(error), text
