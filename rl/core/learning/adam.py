"""A step of Adam in numpy: what the learning engine `numpy` takes where torch is not wanted."""

from __future__ import annotations

import math

import numpy as np

from rl.core.data.tree import Array

__all__ = ["NumpyAdam"]


class NumpyAdam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1) over vectors that stay in place.

    Its face is that of `CompiledAdam`.
    """

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
        self._values, self._gradient, self._mean, self._square = values, gradient, mean, square
        self._betas, self._epsilon = betas, np.float32(epsilon)
        self._step, self._root = np.empty_like(values), np.empty_like(values)

    def step(self, count: float, learning_rate: float, scale: float = 1.0) -> None:
        """Changes values and moments.

        Args:
            count: Of the step, 1 at the first.
            learning_rate: Of the step.
            scale: The gradient is multiplied by it, and stays as it is.
        """
        (beta1, beta2), step, root = self._betas, self._step, self._root
        np.multiply(self._gradient, np.float32(scale), step)
        np.multiply(step, step, root)
        np.subtract(step, self._mean, step)
        step *= np.float32(1 - beta1)
        self._mean += step
        root *= np.float32(1 - beta2)
        self._square *= np.float32(beta2)
        self._square += root
        np.sqrt(self._square, root)
        root *= np.float32(1 / math.sqrt(1 - beta2**count))
        root += self._epsilon
        np.divide(self._mean, root, step)
        step *= np.float32(learning_rate / (1 - beta1**count))
        self._values -= step
