"""How many threads the compiled passes may use: their bits do not depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rl.core.kernels.library import kernels

__all__ = ["kernel_threads"]


@contextmanager
def kernel_threads(count: int) -> Iterator[None]:
    """Lets passes share their work among so many threads for the length of a block.

    The threads stay, asleep, for the next block. Acting outside of a block runs on one.
    """
    library = kernels()
    if library is None:
        yield
        return
    before = library.set_threads(count)
    try:
        yield
    finally:
        library.set_threads(before)
