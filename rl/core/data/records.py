"""What a replay buffer keeps of a step besides its observation, packed into one row of words.

A row is as many 4-byte columns as the action has, then what the policy remembered, the reward,
whether the episode carries on, and where the observation lies that the episode ended on. One `take`
fetches all of a step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl.core.data.rollout import Rollout
from rl.core.data.spaces import ActionLayout
from rl.core.data.tree import Array

__all__ = ["HEAD", "NONE", "SLOT", "Records", "Steps"]

NONE = -1
"""In place of a slot of the pool: no episode ended here."""
HEAD = -2
"""In place of a slot: no step at all, only the observation the newest one led to."""

REWARD, CARRIES_ON, SLOT = -3, -2, -1


class Steps:
    """Rows that were taken out, [..., columns] words, one column at a time."""

    def __init__(self, words: Array, actions: ActionLayout) -> None:
        self._words = words
        self._numbers = words.view(np.float32)
        self._layout = actions

    @property
    def actions(self) -> Array:
        """[..., *act], as sampled."""
        columns = self._numbers if self._layout.continuous else self._words
        actions = columns[..., : self._layout.num_columns].astype(self._layout.dtype)
        return actions if self._layout.shape else actions[..., 0]

    @property
    def memory(self) -> Array:
        """[..., S] float32, what the policy remembered when it acted."""
        return np.ascontiguousarray(self._numbers[..., self._layout.num_columns : REWARD])

    @property
    def rewards(self) -> Array:
        """[...] float32."""
        return np.ascontiguousarray(self._numbers[..., REWARD])

    @property
    def carries_on(self) -> Array:
        """[...] float32: 0 where the episode terminated, else 1."""
        return self._numbers[..., CARRIES_ON]

    @property
    def slots(self) -> Array:
        """[...] int32, in the pool of final observations; or `NONE`, or `HEAD`."""
        return self._words[..., SLOT]


class Records:
    """R rows of each of B environments; row r of environment b is r * B + b when all are one axis.

    Whole numbers lie in the words as they are, so nothing is rounded: an action below 2^31 comes
    back as it was.
    """

    def __init__(self, actions: ActionLayout, rows: int, width: int, memory_size: int = 0) -> None:
        self._layout = actions
        self._acted = actions.num_columns
        self._remembers = memory_size > 0
        self.words = np.zeros((rows, width, self.columns(actions, memory_size)), np.int32)
        self.slots: Array = self.words[..., SLOT]
        self.slots[:] = NONE
        self._numbers: Array = self.words.view(np.float32)
        self._flat = self.words.reshape(rows * width, -1)

    @staticmethod
    def columns(actions: ActionLayout, memory_size: int = 0) -> int:
        """Words in a row."""
        return actions.num_columns + memory_size + 3

    def put(self, to: Any, rollout: Rollout, at: Any) -> None:
        """Writes steps `at` of a rollout [T, B] to rows `to`; no episode ends in them yet."""
        columns = self._numbers if self._layout.continuous else self.words
        actions = rollout.actions if self._layout.shape else rollout.actions[..., None]
        columns[..., : self._acted][to] = actions[at]
        if self._remembers:
            assert rollout.memory is not None, "sampled by a network without memory"
            self._numbers[..., self._acted : REWARD][to] = rollout.memory[:-1][at]
        self._numbers[..., REWARD][to] = rollout.rewards[at]
        self._numbers[..., CARRIES_ON][to] = ~rollout.terminated[at]
        self.slots[to] = NONE

    def take(self, flat: Array) -> Steps:
        """The rows [...] of these indices; one past the last is the first again."""
        return Steps(self._flat.take(flat, 0, mode="wrap"), self._layout)
