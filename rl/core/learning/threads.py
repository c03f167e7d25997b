"""How many threads a learner computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rl.configs.algorithm_config import LearnersConfig
from rl.core.kernels.threads import kernel_threads
from rl.core.models.blas import BlasThreads
from rl.core.models.threads import torch_threads_if_loaded

__all__ = ["LearningThreads"]


class LearningThreads:
    """Threads for the length of an update, by what computes it."""

    def __init__(self, ordinary: int = 1, in_kernels: int = 1) -> None:
        """Sets nothing yet.

        Args:
            ordinary: Of torch and numpy; the last bits of what they compute depend on it.
            in_kernels: Of compiled passes, which give the same bits with any number.
        """
        self.ordinary, self.in_kernels = ordinary, in_kernels
        self._blas = BlasThreads()

    def __reduce__(self) -> tuple[type[LearningThreads], tuple[int, int]]:
        return LearningThreads, (self.ordinary, self.in_kernels)  # another process has its own BLAS

    @classmethod
    def of(cls, settings: LearnersConfig, free: int) -> LearningThreads:
        """What the settings ask for; `auto`: the `free` cores for compiled passes, else one."""
        asked = settings.threads
        return cls(asked, asked) if isinstance(asked, int) else cls(1, free)

    @property
    def most(self) -> int:
        """What a learner keeps busy at a time."""
        return max(self.ordinary, self.in_kernels)

    @contextmanager
    def set_for(self, engine: str) -> Iterator[None]:
        """Sets them for a block. Beside compiled passes nothing else takes more than one."""
        ordinary = 1 if engine == "compiled" else self.ordinary
        with (
            torch_threads_if_loaded(ordinary),
            self._blas.limited(ordinary),
            kernel_threads(self.in_kernels),
        ):
            yield
