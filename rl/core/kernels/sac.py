"""What SAC computes between passes through its networks, each step of it in one call.

Shapes: M samples, d numbers of an action, F features; 2 is the critics.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rl.core.kernels.library import address, close, kernels

__all__ = ["CompiledSACLosses"]

Array = npt.NDArray[Any]


class _Both(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("first", "second")),
        *((name, ctypes.c_int64) for name in ("first_stride", "second_stride")),
    ]


class _Sums(ctypes.Structure):
    _fields_ = [("loss", ctypes.c_double), ("value", ctypes.c_double)]
    loss: float
    value: float


class CompiledSACLosses:
    """Both losses with a squashed Gaussian, from what the networks give. Its arrays stay."""

    def __init__(self, actions: int, bounds: tuple[float, float]) -> None:
        """Allocates nothing yet.

        Args:
            actions: d.
            bounds: Of log-deviations.
        """
        library = kernels()
        assert library is not None, "look at `kernels` first"
        self._library = library
        self._width, self._bounds = actions, bounds
        self._size = -1

    def _allocate(self, size: int) -> None:
        self._size = size
        self._log_probs, self._targets = (np.empty(size, np.float32) for _ in range(2))
        self._spread, self._inside = (np.empty((size, self._width), np.float32) for _ in range(2))
        self._errors, self._slopes = (np.empty((2, size), np.float32) for _ in range(2))
        self._gradient = np.empty((size, 2 * self._width), np.float32)
        self._at_sample = address(self._spread), address(self._inside)
        self._at_log_probs, self._at_targets = address(self._log_probs), address(self._targets)
        self._at_errors, self._at_slopes = address(self._errors), address(self._slopes)
        self._at_gradient = address(self._gradient)

    def sample(self, outputs: Array, noise: Array, actions: Array) -> float:
        """Draws actions; what `soft_targets` and `policy_slopes` need of them is kept.

        Args:
            outputs: Means and log-deviations, [M, 2 d] float32.
            noise: Standard normal [M, d] float32.
            actions: Written, in (-1, 1), [M, d] float32; it may be a part of wider rows.

        Returns:
            The mean log-density.
        """
        size = len(outputs)
        if size != self._size:
            self._allocate(size)
        self._actions, noise = actions, close(noise)
        total: float = self._library.squashed_sample(
            *(size, self._width, address(outputs), outputs.strides[0] // 4, address(noise)),
            *(*self._bounds, address(actions), actions.strides[0] // 4),
            *(self._at_log_probs, *self._at_sample),
        )
        return total / size

    def set_targets(
        self, values: Sequence[Array], returns: Array, discounts: Array, ent_coef: float
    ) -> None:
        """Works out what the critics are compared with, from both values [M] of what was drawn."""
        both, returns, discounts = _both(values), close(returns), close(discounts)
        self._library.soft_targets(
            *(self._size, ctypes.addressof(both), self._at_log_probs, ent_coef),
            *(address(returns), address(discounts), self._at_targets),
        )

    def critic_slopes(
        self, values: Sequence[Array], weights: Array | None
    ) -> tuple[Array, Array, float, float]:
        """Compares the values [M] of both critics with the targets set last.

        Returns:
            The gradient at the values [2, M], errors [2, M], valid until the next call; the loss of
            both, and their mean value.
        """
        both, sums = _both(values), _Sums()
        weights = None if weights is None else close(weights)
        self._library.critic_slopes(
            *(self._size, ctypes.addressof(both), self._at_targets),
            *(None if weights is None else address(weights), self._at_errors, self._at_slopes),
            ctypes.addressof(sums),
        )
        size = self._size
        return self._slopes, self._errors, sums.loss / size, sums.value / (2 * size)

    def lesser_slopes(self, values: Sequence[Array]) -> tuple[Array, float]:
        """The gradient [2, M] of minus the mean of the lesser of both values [M]; that mean."""
        both = _both(values)
        total = self._library.lesser_slopes(self._size, ctypes.addressof(both), self._at_slopes)
        return self._slopes, total / self._size

    def policy_slopes(self, backs: Sequence[Array], ent_coef: float) -> Array:
        """The gradient [M, 2 d] at the outputs of `sample`, valid until the next call.

        Args:
            backs: That of each critic at the actions drawn last, [M, d] float32.
            ent_coef: alpha.
        """
        both = _both(backs)
        self._library.squashed_slopes(
            *(self._size, self._width, ctypes.addressof(both)),
            *(address(self._actions), self._actions.strides[0] // 4, *self._at_sample),
            *(ent_coef, self._at_gradient),
        )
        return self._gradient


def _both(arrays: Sequence[Array]) -> _Both:
    first, second = arrays
    places = address(first), address(second), first.strides[0] // 4, second.strides[0] // 4
    return _Both(*places)
