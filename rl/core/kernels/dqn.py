"""DQN's targets and the slopes of its loss, in one call each."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from rl.core.kernels.library import address, close, kernels

__all__ = ["CompiledDQNLoss"]

Array = npt.NDArray[Any]


class _Sums(ctypes.Structure):
    _fields_ = [("loss", ctypes.c_double), ("value", ctypes.c_double)]
    loss: float
    value: float


class CompiledDQNLoss:
    """Huber's loss of values of k actions."""

    def __init__(self, actions: int) -> None:
        """`actions`: k."""
        library = kernels()
        assert library is not None, "look at `kernels` first"
        self._targets_of, self._slopes_of = library.dqn_targets, library.dqn_slopes
        self._actions = actions
        self._size = -1

    def _allocate(self, size: int) -> None:
        self._size = size
        self._targets, self._errors = np.empty(size, np.float32), np.empty(size, np.float32)
        self._gradient = np.empty((size, self._actions), np.float32)
        self._at_targets = address(self._targets)
        self._written = address(self._gradient), address(self._errors)

    def set_targets(
        self, next_values: Array, choosing: Array, returns: Array, discounts: Array
    ) -> None:
        """Works out what values are compared with.

        Args:
            next_values: Of the target network at the successors, [M, k] float32.
            choosing: What the best action is chosen by, [M, k] float32.
            returns: [M] float32.
            discounts: [M] float32.
        """
        size = len(returns)
        if size != self._size:
            self._allocate(size)
        returns, discounts = close(returns), close(discounts)
        self._targets_of(
            *(size, self._actions, address(next_values), next_values.strides[0] // 4),
            *(address(choosing), choosing.strides[0] // 4),
            *(address(returns), address(discounts), self._at_targets),
        )

    def gradient(
        self, values: Array, actions: Array, weights: Array | None
    ) -> tuple[Array, Array, float, float]:
        """Compares values with the targets set last.

        Args:
            values: Of all actions, [M, k] float32.
            actions: What was done, [M] int64.
            weights: Importance of each, [M] float32; None: all alike.

        Returns:
            The gradient of the mean loss at the values [M, k] and targets less values [M], valid
            until the next call; the mean loss, and the mean value of what was done.

        Raises:
            IndexError: An action is none of the k.
        """
        size, sums = self._size, _Sums()
        actions, weights = close(actions), None if weights is None else close(weights)
        if self._slopes_of(
            *(size, self._actions, address(values), values.strides[0] // 4),
            *(address(actions), self._at_targets, None if weights is None else address(weights)),
            *(*self._written, ctypes.addressof(sums)),
        ):
            raise IndexError(f"an action is none of 0 to {self._actions - 1}")
        return self._gradient, self._errors, sums.loss / size, sums.value / size
