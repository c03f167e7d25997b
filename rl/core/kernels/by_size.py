"""Arrays that are made once for each number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["BySize"]

T = TypeVar("T")
MOST_SIZES = 16
"""Numbers of rows that are remembered; a learner has two or three."""


class BySize(Generic[T]):
    """What `make` gave for a number of rows; it is asked once, but for sizes without end."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._known: dict[int, T] = {}

    def __call__(self, size: int) -> T:
        found = self._known.get(size)
        if found is None:
            if len(self._known) >= MOST_SIZES:
                self._known.clear()
            found = self._known[size] = self._make(size)
        return found
