"""Observations of B environments in rings of R rows, and those that episodes ended on, apart.

Shapes: B environments, R rows of each, T steps of a rollout, M samples. Row r of environment b has
the index r * B + b; indices wrap around.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rl.core.data.rollout import Rollout
from rl.core.data.tree import Array, Tree, first_leaf, put_rows, tree_map

__all__ = ["Place", "Pool", "Rings", "leaves_of"]

Place = tuple[Any, Any]
"""Where rows go and where they come from: an index into [R, B], and one into [T + 1, B]."""


def leaves_of(tree: Tree) -> dict[str, Array]:
    """The arrays of a tree by path; the path of a lone one is empty."""
    return tree if isinstance(tree, dict) else {"": tree}


class Pool:
    """Observations by slot. It grows as it must, and a slot given back is used again."""

    def __init__(self, allocate: Callable[..., Tree]) -> None:
        self._allocate = allocate
        self.rows = allocate(0)
        self._free: list[int] = []

    def __len__(self) -> int:
        return int(first_leaf(self.rows).shape[0])

    def keep(self, observations: Tree) -> Array:
        """Stores observations [K, ...]; returns their slots [K]."""
        count = first_leaf(observations).shape[0]
        missing = count - len(self._free)
        if missing > 0:
            old = len(self)
            grown = self._allocate(old + max(missing, old))
            put_rows(grown, slice(old), self.rows, slice(old))
            self.rows = grown
            self._free += range(old, len(self))
        slots = np.array([self._free.pop() for _ in range(count)], np.int32)
        put_rows(self.rows, slots, observations, slice(None))
        return slots

    def release(self, slots: Array) -> None:
        """Gives slots back."""
        self._free += slots.tolist()

    def clear(self) -> None:
        """Forgets everything."""
        self.rows = self._allocate(0)
        self._free = []


class Rings:
    """Every observation stored once, as it came."""

    def __init__(self, allocate: Callable[..., Tree], rows: int, width: int) -> None:
        """Allocates them; `allocate` makes zeroed arrays with the leading axes it is given."""
        self._rows: Tree = allocate(rows, width)
        self._flat: Tree = tree_map(
            lambda leaf: leaf.reshape(rows * width, *leaf.shape[2:]), self._rows
        )
        self.pool = Pool(allocate)

    @property
    def columns(self) -> dict[str, Array]:
        """What a row consists of, [R, B, ...] by name."""
        return {f"observations/{path}": leaf for path, leaf in leaves_of(self._rows).items()}

    def take(self, flat: Array) -> Tree:
        """Observations [M, *obs] of these indices."""
        return tree_map(lambda leaf: leaf.take(flat, 0, mode="wrap"), self._flat)

    def successors(self, flat: Array, slots: Array) -> Tree:
        """Observations [M, *obs] of these indices, or from the pool where `slots` names one."""
        found = self.take(flat)
        ended = np.flatnonzero(slots >= 0)
        if len(ended):
            put_rows(found, ended, self.pool.rows, slots[ended])
        return found

    def differ(self, flat: Array, observations: Tree) -> Array:
        """Whether each of these indices holds another than the observations given, [M] bool."""
        differ = np.zeros(len(flat), np.bool_)
        stored = leaves_of(self.take(flat))
        for path, leaf in leaves_of(observations).items():
            other = stored[path] != leaf
            if other.any():
                differ |= other.reshape(len(flat), -1).any(1)
        return differ

    def put(self, places: Sequence[Place], rollout: Rollout, heads: Array, begins: Array) -> None:
        """Writes observations of a rollout.

        Args:
            places: Where they go and where they come from.
            rollout: [T, B].
            heads: Indices [B] of what was observed last.
            begins: [B] bool, whether its first observation is another than that.
        """
        for to, at in places:
            put_rows(self._rows, to, rollout.observations, at)

    def keep_finals(self, rollout: Rollout) -> Array:
        """Puts the final observations of a rollout into the pool; returns their slots [K]."""
        return self.pool.keep(rollout.final_observations)

    def keep(self, flat: Array) -> Array:
        """Puts what these indices hold into the pool; returns the slots [M]."""
        return self.pool.keep(self.take(flat))
