"""A sum tree: draws leaves in proportion to their weight, a whole batch at a time."""

from __future__ import annotations

import numpy as np

from rl.core.data.tree import Array

__all__ = ["SumTree"]


class SumTree:
    """Weights of `size` leaves under the sums of their pairs, their pairs' pairs, and so on.

    Every operation goes level by level over whole arrays: log2(size) numpy calls for a batch of any
    length. Sums are made anew from their two parts, never adjusted, so rounding does not add up.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._levels = max(1, (size - 1).bit_length())
        self._first = 1 << self._levels  # node 1 is the root, node i has children 2i and 2i + 1
        self._nodes = np.zeros(2 * self._first, np.float64)

    @staticmethod
    def bytes_needed(size: int) -> int:
        """Memory of a tree with `size` leaves."""
        return 16 << max(1, (size - 1).bit_length())

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._nodes[1])

    def get(self, leaves: Array) -> Array:
        """The weights of leaves [M]."""
        weights: Array = self._nodes[leaves + self._first]
        return weights

    def set(self, leaves: Array, weights: Array | float) -> None:
        """Gives leaves [M] new weights; of a leaf named twice the last counts."""
        nodes = leaves + self._first
        self._nodes[nodes] = weights
        for _ in range(self._levels):
            nodes = nodes >> 1
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, targets: Array) -> Array:
        """The leaf at which the running sum of weights passes each target [M] in [0, total).

        A leaf of weight 0 is never found, whatever the rounding, while any has more.
        """
        rest = np.array(targets, np.float64)
        nodes = np.ones(rest.shape[0], np.int64)
        for _ in range(self._levels):
            nodes *= 2
            left = self._nodes[nodes]
            right = (rest >= left) & (self._nodes[nodes + 1] > 0)
            rest -= left * right
            nodes += right
        return nodes - self._first
