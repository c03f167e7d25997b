"""How many threads numpy's matrix products take: their bits depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from threadpoolctl import ThreadpoolController

__all__ = ["BlasThreads"]


class BlasThreads:
    """The BLAS libraries loaded now, found once."""

    def __init__(self) -> None:
        self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers

    def limited(self, count: int) -> AbstractContextManager[None]:
        """Sets the number of threads for a block; costs a microsecond where it is that already."""
        if all(library.get_num_threads() == count for library in self._libraries):
            return nullcontext()
        return self._set(count)

    @contextmanager
    def _set(self, count: int) -> Iterator[None]:
        before = [library.get_num_threads() for library in self._libraries]
        for library in self._libraries:
            library.set_num_threads(count)
        try:
            yield
        finally:
            for library, number in zip(self._libraries, before, strict=True):
                library.set_num_threads(number)
