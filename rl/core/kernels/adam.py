"""A step of Adam in one pass over the memory."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from rl.core.kernels.library import address, kernels

__all__ = ["CompiledAdam"]

Array = npt.NDArray[Any]


class _Step(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_float) for name in ("scale", "beta1", "beta2", "rate", "root", "epsilon")
    ]


class CompiledAdam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1) over vectors that stay in place."""

    def __init__(
        self,
        values: Array,
        gradient: Array,
        mean: Array,
        square: Array,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        """Takes the memory of what it changes and reads, each [P] float32."""
        library = kernels()
        assert library is not None, "look at `kernels` first"
        self._adam, self._betas = library.adam, betas
        self._settings = _Step(1.0, *betas, 0.0, 0.0, epsilon)
        self._owned = values, gradient, mean, square
        assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in self._owned)
        self._given = (
            ctypes.addressof(self._settings),
            len(values),
            *(address(array) for array in self._owned),
        )

    def step(self, count: float, learning_rate: float, scale: float = 1.0) -> None:
        """Changes values and moments.

        Args:
            count: Of the step, 1 at the first.
            learning_rate: Of the step.
            scale: The gradient is multiplied by it, and stays as it is.
        """
        settings, (beta1, beta2) = self._settings, self._betas
        settings.scale = scale
        settings.rate = learning_rate / (1 - beta1**count)
        settings.root = 1 / math.sqrt(1 - beta2**count)
        self._adam(*self._given)
