"""The far side of the Ray engine: what runs in a Ray worker process. It does not import ray.

One `RayWorker` is one incarnation of one actor. Calls run in their own thread, one at a time, in
the order of sending; questions about them (`look`, `take_back`, `stacks`) are answered by another
thread, and `vigil` never returns, so that its failure tells the driver at once that the process is
gone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

from rl.core.runtime.board import use_board
from rl.core.runtime.ray_objects import Packed, pack_error
from rl.core.runtime.wire import Outcome
from rl.core.runtime.worker import enter, key_of
from rl.version import __version__

__all__ = ["EXITED", "Place", "RayWorker", "run_task", "versions"]

Place = int | str
Answer = tuple[tuple[int, str, Packed | None], Packed | None]
"""The outcome, its detail and a small value; then a large value. The driver reads the first as soon
as it comes, the second only when it is asked for: until then it stays where it was made."""
SMALL_BYTES = 8 * 1024

EXITED = -1
"""In place of an outcome: the call ended the process, and the detail says how."""


def versions() -> str:
    """What has to be alike on both sides for pickles and bits to be."""
    return f"rl {__version__} on Python {sys.version_info[0]}.{sys.version_info[1]}"


class RayWorker:
    """Holds one actor."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._begun = 0
        self._taken_back: set[int] = set()
        self._progress_at = time.monotonic()
        self._thread = 0
        self._actor: Any = None
        use_board(self)

    # Calls

    def hello(self) -> tuple[int, str]:
        """The process, and its versions."""
        self._thread = threading.get_ident()
        return os.getpid(), versions()

    def construct(
        self,
        maker: Packed,
        arguments: Packed,
        places: Sequence[Place],
        where: tuple[str, list[str]] | None,
        *extras: Packed,
    ) -> Answer:
        """Makes the actor."""
        try:
            if where is not None:
                enter(*where)
            actor_class = maker.load()
            args, kwargs = _filled(arguments, places, extras)
            self._actor = actor_class(*args, **kwargs)
        except SystemExit as leaving:
            return (EXITED, exit_words(leaving), None), None
        except Exception as error:
            return (Outcome.RAISED.value, key_of(error), pack_error(error)), None
        return (Outcome.RETURNED.value, "", None), None

    def call(
        self,
        number: int,
        method: str,
        arguments: Packed | None,
        places: Sequence[Place],
        *extras: Packed,
    ) -> Answer:
        """Runs call `number`, unless it was taken back."""
        with self._guard:
            self._begun = number
            self._progress_at = time.monotonic()
            if number in self._taken_back:
                self._taken_back.discard(number)
                return _answer(Outcome.SKIPPED, Packed.of(None))
        bound = getattr(self._actor, method, None)
        if not callable(bound):
            names = [word for word in dir(self._actor) if not word.startswith("_")]
            return _answer(Outcome.UNKNOWN_METHOD, Packed.of(names))
        return _run(bound, arguments, places, extras)

    # Questions

    def note_progress(self) -> None:
        """The call under way has come further."""
        self._progress_at = time.monotonic()

    def look(self) -> float:
        """Seconds since it last came further."""
        return time.monotonic() - self._progress_at

    def take_back(self, number: int) -> bool:
        """Makes call `number` be passed over; False when it has begun."""
        with self._guard:
            if number <= self._begun:
                return False
            self._taken_back.add(number)
            return True

    def stacks(self) -> list[str]:
        """Where the thread of the calls is."""
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001  # documented, for this use
        return "".join(traceback.format_stack(frame)).splitlines() if frame else []

    def vigil(self) -> None:
        """Does not return."""
        threading.Event().wait()


def run_task(arguments: Packed, places: Sequence[Place], *extras: Packed) -> Answer:
    """Runs a stateless task: its function is the first argument."""
    return _run(
        lambda function, *args, **kwargs: function(*args, **kwargs), arguments, places, extras
    )


def _run(
    function: Any, arguments: Packed | None, places: Sequence[Place], extras: tuple[Packed, ...]
) -> Answer:
    try:
        args, kwargs = _filled(arguments, places, extras)
    except Exception as error:
        return _answer(Outcome.ARGUMENT_STUCK, pack_error(error))
    try:
        result = function(*args, **kwargs)
    except SystemExit as leaving:
        return (EXITED, exit_words(leaving), None), None
    except BaseException as error:
        return _answer(Outcome.RAISED, pack_error(error))
    try:
        return _answer(Outcome.RETURNED, Packed.of(result))
    except Exception as error:
        return _answer(Outcome.RESULT_STUCK, pack_error(error))


def _answer(outcome: Outcome, packed: Packed) -> Answer:
    if packed.num_bytes <= SMALL_BYTES:
        return (outcome.value, "", packed), None
    return (outcome.value, "", None), packed


def _filled(
    arguments: Packed | None, places: Sequence[Place], extras: tuple[Packed, ...]
) -> tuple[list[Any], dict[str, Any]]:
    if arguments is None:
        return [], {}
    args, kwargs = arguments.load()
    args = list(args)
    for place, packed in zip(places, extras, strict=True):
        if isinstance(place, int):
            args[place] = packed.load()
        else:
            kwargs[place] = packed.load()
    return args, kwargs


def exit_words(leaving: SystemExit) -> str:
    """As a process that ended so would be described."""
    code = leaving.code
    return f"exit code {code if isinstance(code, int) else 0 if code is None else 1}"
