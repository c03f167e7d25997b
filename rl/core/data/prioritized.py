"""Prioritised replay, proportional (Schaul et al. 2016, arXiv:1511.05952).

P(i) = p_i^alpha / sum p^alpha with p_i = |TD error| + 1e-6; what is new has the largest priority
ever given. Importance weights are (N P(i))^-beta divided by the largest of their batch (the paper's
pseudocode has the batch; some take the whole buffer).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rl.core.data.blocks import STATE, Part, Parts
from rl.core.data.replay import ReplayBuffer, ReplayMark
from rl.core.data.spaces import Spaces
from rl.core.data.sum_tree import SumTree
from rl.core.data.tree import Array

__all__ = ["PrioritizedReplay"]

LEAST = 1e-6
"""Added to every error, so that nothing is never drawn."""


class PrioritizedReplay(ReplayBuffer):
    """Draws transitions in proportion to how wrong their value was when last seen."""

    def __init__(
        self,
        spaces: Spaces,
        num_environments: int,
        size: int,
        seed: int,
        memory_size: int = 0,
        *,
        alpha: float,
    ) -> None:
        super().__init__(spaces, num_environments, size, seed, memory_size)
        self.alpha = alpha
        self._priorities = SumTree(self._rows * num_environments)
        self._largest = 1.0
        self._changed: list[tuple[Array, Array]] | None = None  # since the mark, if there is one

    @staticmethod
    def bytes_needed(spaces: Spaces, size: int, memory_size: int = 0) -> int:
        own = SumTree.bytes_needed(size)
        return ReplayBuffer.bytes_needed(spaces, size, memory_size) + own

    def _stored(self, rows: list[Any]) -> None:
        for to in rows:
            self._priorities.set(self._indices(to), self._largest**self.alpha)
        # Between the newest and the oldest lie rows that are no transitions, or no longer.
        spare = (self._heads + np.arange(self._rows - self.capacity)[:, None]) % self._rows
        self._priorities.set((spare * self.num_environments + self._lanes).ravel(), 0.0)

    def _indices(self, to: Any) -> Array:
        """Indices [N] of rows: a slice of them in every environment, or rows and environments."""
        if isinstance(to, slice):
            rows = np.arange(to.start, to.stop)[:, None]
            return (rows * self.num_environments + self._lanes).ravel()
        rows, lanes = to
        found: Array = rows * self.num_environments + lanes
        return found

    def draw(self, size: int) -> Array:
        """Indices [M], one from each of M equal parts of the sum of priorities."""
        parts = (np.arange(size) + self._generator.random(size)) / size
        return self._priorities.find(parts * self._priorities.total)

    def probabilities(self, indices: Array) -> Array:
        """P(i) of transitions [M]."""
        found: Array = self._priorities.get(indices) / self._priorities.total
        return found

    def weights(self, indices: Array, beta: float) -> Array:
        """Importance weights [M] float32, the largest 1."""
        weights: Array = (len(self) * self.probabilities(indices)) ** -beta
        weights = weights / weights.max()
        return weights.astype(np.float32)

    def set_priorities(self, indices: Array, errors: Array) -> None:
        """Notes the TD errors [M] that transitions had, of either sign.

        One that is not finite would make every draw that one; it counts as none, for nothing is
        learnt from it.
        """
        errors = np.where(np.isfinite(errors), errors, 0.0)
        if self._changed is not None:
            self._changed.append((indices, self._priorities.get(indices)))
        priorities = np.abs(errors).astype(np.float64) + LEAST
        self._largest = max(self._largest, float(priorities.max()))
        self._priorities.set(indices, priorities**self.alpha)

    def mark(self) -> ReplayMark:
        self._changed = []
        return replace(super().mark(), largest=self._largest)

    def rewind(self, mark: ReplayMark) -> None:
        super().rewind(mark)
        for indices, before in reversed(self._changed or []):
            self._priorities.set(indices, before)
        self._changed = []
        self._largest = mark.largest

    def get_state(self, known: Collection[str] = ()) -> Parts:
        used = min(int(self._written.max()) + 1, self._rows) * self.num_environments
        own = {
            "priorities": self._priorities.get(np.arange(used)),
            "largest": np.array(self._largest),
        }
        parts = super().get_state(known)
        return {**parts, STATE: {**(parts[STATE] or {}), **own}}

    def set_state(self, parts: Mapping[str, Part | None]) -> None:
        super().set_state(parts)
        state = parts[STATE] or {}
        self._priorities = SumTree(self._rows * self.num_environments)
        self._priorities.set(np.arange(state["priorities"].size), state["priorities"])
        self._largest = float(state["largest"])
