"""Stacks of frames, stored one frame a step and stacked again when they are sampled.

A stack [n, *frame], newest last, shares all but its newest frame with the one before. Where an
episode begins, the stack is filled up with its first frame or with zeros, as the wrapper that made
it does; how many frames of its episode a row has behind it is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl.core.data.rings import Place, Rings, leaves_of
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import FrameStack, ObservationLayout
from rl.core.data.tree import Array, Tree, put_rows, tree_map
from rl.errors import EnvironmentFault

__all__ = ["FrameRings"]


class FrameRings(Rings):
    """Rings of single frames. A sample is the stack that the environment gave, to the bit."""

    def __init__(self, layout: ObservationLayout, stack: FrameStack, rows: int, width: int) -> None:
        def allocate(*leading: int) -> Tree:
            if not layout.nested:
                leaf = layout.leaves[0]
                return np.zeros((*leading, *leaf.shape[1:]), leaf.dtype)
            return {
                leaf.path: np.zeros((*leading, *leaf.shape[1:]), leaf.dtype)
                for leaf in layout.leaves
            }

        super().__init__(allocate, rows, width)
        self._width = width
        self._stack = stack
        self._lags = np.arange(stack.size - 1, -1, -1)
        self._ages = np.zeros((rows, width), np.uint8)  # frames before it in the stack, that count
        self._flat_ages: Array = self._ages.reshape(-1)

    @property
    def columns(self) -> dict[str, Array]:
        return {**super().columns, "ages": self._ages}

    def take(self, flat: Array) -> Tree:
        ages = self._flat_ages.take(flat, mode="wrap")[:, None]
        back = np.minimum(self._lags, ages) * self._width
        found = super().take(flat[:, None] - back)
        if self._stack.padding == "zero":
            missing = self._lags > ages
            for leaf in leaves_of(found).values():
                leaf[missing] = 0
        return found

    def successors(self, flat: Array, slots: Array) -> Tree:
        found = self.take(flat)
        ended = np.flatnonzero(slots >= 0)
        if len(ended):
            before = leaves_of(self.take(flat[ended] - self._width))
            finals = leaves_of(self.pool.rows)
            for path, leaf in leaves_of(found).items():
                leaf[ended, :-1] = before[path][:, 1:]
                leaf[ended, -1] = finals[path][slots[ended]]
        return found

    def put(self, places: Sequence[Place], rollout: Rollout, heads: Array, begins: Array) -> None:
        """Writes the newest frame of every stack.

        Raises:
            EnvironmentFault: An observation is not the stack of the frames before it.
        """
        starts = self._starts(rollout, begins)
        self._check(rollout, starts)
        ages = np.zeros(starts.shape, np.uint8)
        age = self._flat_ages.take(heads)
        for t, start in enumerate(starts):
            if t:
                age = np.minimum(age + 1, self._stack.size - 1)
            ages[t] = age = np.where(start, 0, age)
        newest = tree_map(lambda leaf: leaf[:, :, -1], rollout.observations)
        for to, at in places:
            put_rows(self._rows, to, newest, at)
            self._ages[to] = ages[at]

    def keep_finals(self, rollout: Rollout) -> Array:
        return self.pool.keep(tree_map(lambda leaf: leaf[:, -1], rollout.final_observations))

    def keep(self, flat: Array) -> Array:
        return self.pool.keep(tree_map(lambda leaf: leaf[:, -1], self.take(flat)))

    def _starts(self, rollout: Rollout, begins: Array) -> Array:
        """Which observations [T + 1, B] are the first of an episode, or follow a row of none."""
        starts = np.concatenate((begins[None], rollout.terminated | rollout.truncated))
        if rollout.valid is not None:
            starts[1:] |= ~rollout.valid
        return starts

    def _check(self, rollout: Rollout, starts: Array) -> None:
        first = starts.copy()
        if rollout.valid is not None:  # what lies between two episodes is never sampled
            first[:-1] &= rollout.valid
            first[-1] = False
        t, b = rollout.final_steps.T
        finals = leaves_of(rollout.final_observations)
        for path, leaf in leaves_of(rollout.observations).items():
            older, newer = leaf[:, :, :-1], leaf[:, :, 1:]
            rolled = (older[1:] == newer[:-1]).reshape(*rollout.rewards.shape, -1).all(-1)
            padding = leaf[first][:, -1:] if self._stack.padding == "first" else 0
            if not (
                (rolled | starts[1:]).all()
                and np.array_equal(older[first], np.broadcast_to(padding, older[first].shape))
                and np.array_equal(finals[path][:, :-1], newer[t, b])
            ):
                raise EnvironmentFault(
                    f"an observation{f' {path!r}' if path else ''} is no stack of the last"
                    f" {self._stack.size} frames, which FrameStackObservation should give: does"
                    " the environment inside change an array after it has returned it? Let it"
                    " return a copy"
                )
