"""A replay buffer's rows, where an observation is one array: each of its operations in one call.

Shapes: R rows of each of B environments, M samples. `rl.core.data.replay` says what they mean.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rl.core.kernels.library import address, kernels

__all__ = ["CompiledReplay", "Heads"]

Array = npt.NDArray[Any]
_FLAGGED = np.dtype(np.float32), np.dtype(np.bool_)
"""Rewards, and who terminated."""


@dataclass(frozen=True)
class Heads:
    """Where environments stand, [B] int64 each; changed in place only."""

    written: Array
    """Transitions ever."""
    rows: Array
    """Row that is written next."""
    indices: Array
    """Its index."""
    ends: Array
    """Transitions that are there, of this environment and those before it."""
    offsets: Array
    """From a number below `ends` to a row."""

    @staticmethod
    def of(width: int) -> Heads:
        """Of buffers with nothing in them."""
        return Heads(*(np.zeros(width, np.int64) for _ in range(5)))


class _Table(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("observations", "records", "finals")),
        *((name, ctypes.c_void_p) for name in ("written", "heads", "indices", "ends", "offsets")),
        *((name, ctypes.c_int64) for name in ("rows", "width", "bytes", "acted")),
        *((name, ctypes.c_int64) for name in ("whole", "capacity")),
    ]


class CompiledReplay:
    """Adds, draws and gathers steps of one transition, to the same bits as numpy does."""

    def __init__(
        self, observations: Array, records: Array, heads: Heads, capacity: int, actions: Array
    ) -> None:
        """Takes the memory of what it changes and reads.

        Args:
            observations: [R, B, *obs].
            records: Words [R, B, columns] int32: the action, then reward, carries_on, slot.
            heads: Where environments stand.
            capacity: Transitions of an environment.
            actions: Such as are sampled, [0, *act], int64 or float32.
        """
        library = kernels()
        assert library is not None, "look at `kernels` first"
        self._put, self._draw, self._take = (
            library.replay_put,
            library.replay_draw,
            library.replay_take,
        )
        rows, width, *shape = observations.shape
        self._kinds = observations.dtype, actions.dtype
        self._shapes = (width, *shape), (width, *actions.shape[1:])
        self._owned = observations, records, heads
        self._pool = observations[:0, 0]
        self._table = _Table(
            *(address(observations), address(records), None),
            *(address(getattr(heads, name)) for name in Heads.__dataclass_fields__),
            *(rows, width, observations.strides[1], records.shape[2] - 3),
            *(actions.dtype == np.int64, capacity),
        )
        self._at = ctypes.addressof(self._table)

    def put(self, observations: Array, actions: Array, rewards: Array, terminated: Array) -> bool:
        """Stores T steps of environments that all write at the same row, and moves their heads.

        Args:
            observations: [T + 1, B, *obs].
            actions: [T, B, *act].
            rewards: [T, B] float32.
            terminated: [T, B] bool.

        Returns:
            False, and nothing is stored, where more is to be done: an environment began afresh, a
            row that is overwritten holds a slot, or arrays lie otherwise.
        """
        given = observations, actions, rewards, terminated
        steps = len(rewards)
        if (
            (observations.dtype, actions.dtype) != self._kinds
            or (observations.shape[1:], actions.shape[1:]) != self._shapes
            or (len(observations), len(actions)) != (steps + 1, steps)
            or rewards.shape != terminated.shape
            or (rewards.dtype, terminated.dtype) != _FLAGGED
            or not all(array.flags.c_contiguous for array in given)
        ):
            return False
        return not self._put(self._at, steps, *map(address, given))

    def draw(self, chances: Array) -> Array:
        """Indices [M] of transitions by numbers [M] float64 in [0, 1)."""
        indices = np.empty(len(chances), np.int64)
        self._draw(self._at, len(chances), address(chances), address(indices))
        return indices

    def take(self, indices: Array, gamma: float, finals: Array) -> tuple[Array, ...]:
        """Observations, actions, rewards, successors and discounts of transitions.

        Args:
            indices: [M] int64.
            gamma: The discount where an episode carries on.
            finals: Observations by slot, [slots, *obs].

        Raises:
            IndexError: One is none of a row.
        """
        if finals is not self._pool:
            self._pool, self._table.finals = finals, address(finals)
        size = len(indices)
        kind, acted = self._kinds
        found = (
            np.empty((size, *self._shapes[0][1:]), kind),
            np.empty((size, *self._shapes[1][1:]), acted),
            np.empty(size, np.float32),
            np.empty((size, *self._shapes[0][1:]), kind),
            np.empty(size, np.float32),
        )
        indices = np.ascontiguousarray(indices, np.int64)
        if self._take(self._at, size, address(indices), gamma, *map(address, found)):
            raise IndexError("an index is none of a row")
        return found
