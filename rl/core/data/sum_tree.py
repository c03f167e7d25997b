"""A sum tree: draws leaves in proportion to their weight, a whole batch at a time."""

from __future__ import annotations

import numpy as np

from rl.core.data.tree import Array

__all__ = ["SumTree"]

FAN = 16
TOP = 4096


class SumTree:
    """Weights of `size` leaves under the sums of 16 of them, of 16 such sums, and so on.

    It grows no narrower than some thousand sums, whose running total numpy searches as fast as it
    would descend. So a million leaves are two levels deep instead of the twenty of a tree of pairs,
    and a batch of any length takes few numpy calls. Sums are made anew from their parts, never
    adjusted, so rounding does not add up.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._levels = [np.zeros((rows, FAN), np.float64) for rows in _rows(size)]
        self._running: Array | None = None

    @staticmethod
    def bytes_needed(size: int) -> int:
        """Memory of a tree with `size` leaves."""
        return 8 * FAN * sum(_rows(size))

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._top()[-1])

    def _top(self) -> Array:
        """The running total of the highest level."""
        if self._running is None:
            self._running = self._levels[-1].cumsum()
        return self._running

    def get(self, leaves: Array) -> Array:
        """The weights of leaves [M]."""
        weights: Array = self._levels[0].reshape(-1)[leaves]
        return weights

    def set(self, leaves: Array, weights: Array | float) -> None:
        """Gives leaves [M] new weights; of a leaf named twice the last counts."""
        nodes, values = leaves, weights
        for below, level in enumerate(self._levels):
            level.reshape(-1)[nodes] = values
            if below + 1 < len(self._levels):
                nodes = nodes // FAN
                values = level.take(nodes, axis=0).sum(axis=1)
        self._running = None

    def find(self, targets: Array) -> Array:
        """The leaf at which the running sum of weights passes each target [M] in [0, total).

        A leaf of weight 0 is never found, whatever the rounding, while any has more.
        """
        top = self._top()
        # Searched for from the left, the total is at the last that has any weight.
        last = top.searchsorted(top[-1])
        nodes: Array = np.minimum(top.searchsorted(targets, side="right"), last)
        rest = targets - np.where(nodes > 0, top[nodes - 1], 0.0)
        columns = np.arange(len(nodes))
        for level in reversed(self._levels[:-1]):
            running = _running(level.take(nodes, axis=0).T)
            passed = (running[1:] <= rest) & (running[1:] < running[-1])
            children = passed.argmin(axis=0)
            rest = rest - running[children, columns]
            nodes = nodes * FAN + children
        return nodes


def _running(parts: Array) -> Array:
    """Running totals [17, M] of parts [16, M], each added to the one before it, the first 0.

    A cumsum along so short an axis takes several times as long.
    """
    running = np.zeros((FAN + 1, parts.shape[1]), np.float64)
    for before, part, after in zip(running, parts, running[1:], strict=False):
        np.add(before, part, out=after)
    return running


def _rows(size: int) -> list[int]:
    """The number of rows of each level, the leaves' first."""
    rows = [-(-size // FAN)]
    while rows[-1] * FAN > TOP:
        rows.append(-(-rows[-1] // FAN))
    return rows
