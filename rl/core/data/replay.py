"""Replay: the latest transitions of B environments, every observation stored once.

Each environment has a ring of rows of its own. The successor of a row is the next row; where an
episode ended it is the final observation, which lies in a pool apart. The row at the write head
holds no transition yet, only the observation the newest one led to. What is stored is raw: n-step
sums and scaling happen when sampling.

Shapes: B environments, C transitions of each, R = C + 1 rows, M samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl.core.data.rollout import Rollout
from rl.core.data.spaces import ActionLayout, ObservationLayout, Spaces
from rl.core.data.tree import Array, Tree, first_leaf, tree_map

__all__ = ["ReplayBuffer", "Transitions"]

NONE = -1
"""In place of a slot of the pool: no episode ended here."""


@dataclass(frozen=True)
class Transitions:
    """M transitions of up to n steps each."""

    observations: Tree  # [M, *obs]
    actions: Array  # [M, *act]
    returns: Array  # [M] float32, rewards of m <= n steps, discounted
    next_observations: Tree  # [M, *obs], where the m steps led
    discounts: Array  # [M] float32, gamma^m, or 0 where the last step terminated


class ReplayBuffer:
    """A ring per column, preallocated; draws uniformly."""

    def __init__(self, spaces: Spaces, num_environments: int, size: int, seed: int) -> None:
        """Allocates the columns; the memory is taken as they fill.

        Args:
            spaces: Of one environment.
            num_environments: B; rollouts come side by side, always in the same order.
            size: Transitions to keep, of all environments together; C is its B-th part.
            seed: Of the draws.
        """
        self.num_environments = num_environments
        self.capacity = size // num_environments
        if self.capacity < 1:
            raise ValueError(f"{size} transitions cannot hold one of {num_environments}")
        self._rows = self.capacity + 1
        shape = (self._rows, num_environments)
        actions = ActionLayout(spaces.action)
        self._layout = ObservationLayout(spaces.observation)
        self._observations = self._layout.allocate(*shape)
        self._actions = np.zeros((*shape, *actions.shape), actions.dtype)
        self._rewards = np.zeros(shape, np.float32)
        self._terminated = np.zeros(shape, np.bool_)
        self._slots = np.full(shape, NONE, np.int32)  # of the final observation in the pool
        self._pool = self._layout.allocate(0)
        self._free: list[int] = []
        self._heads = np.zeros(num_environments, np.int64)  # row that is written next
        self._sizes = np.zeros(num_environments, np.int64)
        self._generator = np.random.Generator(np.random.Philox(seed))

    def __len__(self) -> int:
        return int(self._sizes.sum())

    @staticmethod
    def bytes_needed(spaces: Spaces, size: int) -> int:
        """Memory of `size` transitions; final observations, one an episode, come on top."""
        observation, actions = ObservationLayout(spaces.observation), ActionLayout(spaces.action)
        leaves = sum(leaf.dtype.itemsize * int(np.prod(leaf.shape)) for leaf in observation.leaves)
        action = actions.dtype.itemsize * int(np.prod(actions.shape))
        return size * (leaves + action + 4 + 1 + 4)  # reward, terminated, slot

    # -- writing ---------------------------------------------------------------------------------

    def add(self, rollout: Rollout) -> None:
        """Stores the steps of a rollout [T, B]; rows that are no steps leave no trace.

        Raises:
            ValueError: T is more than an environment's ring holds, or B is another.
        """
        length, width = rollout.rewards.shape
        if length > self.capacity or width != self.num_environments:
            raise ValueError(
                f"a rollout [{length}, {width}] does not go into {self.num_environments} rings of"
                f" {self.capacity}"
            )
        steps = np.ones((length, width), np.bool_) if rollout.valid is None else rollout.valid
        t, b = np.nonzero(steps)
        rows = (self._heads[b] + (np.cumsum(steps, 0) - 1)[t, b]) % self._rows
        added = steps.sum(0)
        self._heads = (self._heads + added) % self._rows
        self._sizes = np.minimum(self._sizes + added, self.capacity)
        lanes = np.arange(width)
        # The new head loses its transition: its observation is now the newest one's successor.
        self._release(np.concatenate((rows, self._heads)), np.concatenate((b, lanes)))
        self._put(self._observations, (rows, b), rollout.observations, (t, b))
        self._put(self._observations, (self._heads, lanes), rollout.observations, (length, lanes))
        self._actions[rows, b] = rollout.actions[t, b]
        self._rewards[rows, b] = rollout.rewards[t, b]
        self._terminated[rows, b] = rollout.terminated[t, b]
        if len(rollout.final_steps):
            where = np.full(steps.shape, NONE, np.int64)
            where[t, b] = rows
            self._keep_finals(rollout, where)
        self._stored(rows * width + b, self._heads * width + lanes)

    def _keep_finals(self, rollout: Rollout, rows: Array) -> None:
        """Puts final observations into the pool; `rows` [T, B] says where each step went."""
        t, b = rollout.final_steps.T
        missing = len(t) - len(self._free)
        if missing > 0:
            old = first_leaf(self._pool).shape[0]
            grown = self._layout.allocate(old + max(missing, old))
            self._put(grown, slice(old), self._pool, slice(old))
            self._pool = grown
            self._free += range(old, first_leaf(grown).shape[0])
        slots = np.array([self._free.pop() for _ in t], np.int64)
        self._put(self._pool, slots, rollout.final_observations, slice(None))
        self._slots[rows[t, b], b] = slots

    def _release(self, rows: Array, lanes: Array) -> None:
        held = self._slots[rows, lanes]
        self._free += held[held != NONE].tolist()
        self._slots[rows, lanes] = NONE

    @staticmethod
    def _put(target: Tree, to: Any, source: Tree, at: Any) -> None:
        if isinstance(target, dict):
            assert isinstance(source, dict)
            for path, leaf in target.items():
                leaf[to] = source[path][at]
        else:
            assert not isinstance(source, dict)
            target[to] = source[at]

    def _stored(self, indices: Array, emptied: Array) -> None:
        """Called after new transitions came to `indices` and those at `emptied` went."""

    # -- sampling --------------------------------------------------------------------------------

    def draw(self, size: int) -> Array:
        """Indices [M] of transitions, each as likely as any other, with replacement."""
        ends = np.cumsum(self._sizes)
        places = (self._generator.random(size) * ends[-1]).astype(np.int64)
        lanes = np.searchsorted(ends, places, side="right")
        ages = ends[lanes] - places  # 1 for the newest of its environment
        rows = (self._heads[lanes] - ages) % self._rows
        indices: Array = rows * self.num_environments + lanes
        return indices

    def gather(
        self,
        indices: Array,
        n_step: int,
        gamma: float,
        scale: Callable[[Array], Array] | None = None,
    ) -> Transitions:
        """The transitions at indices [M], from `draw`.

        Each spans m = min(n_step, steps to its episode's end, steps to the write head), so every
        state is the start of one, and none reaches into the next episode.

        Args:
            indices: [M].
            n_step: n.
            gamma: Discount per step.
            scale: Applied to the single rewards [M, n] before they are summed.
        """
        width = self.num_environments
        rows, lanes = np.divmod(indices, width)
        reach = (self._heads[lanes] - rows) % self._rows
        steps = np.arange(n_step)
        flat = (rows[:, None] + steps) % self._rows * width + lanes[:, None]  # [M, n]
        slots = self._slots.reshape(-1).take(flat)
        ended_before = np.zeros(flat.shape, np.bool_)
        ended_before[:, 1:] = np.logical_or.accumulate(slots != NONE, 1)[:, :-1]
        counted = ~ended_before & (steps < reach[:, None])
        rewards = self._rewards.reshape(-1).take(flat)
        if scale is not None:
            rewards = scale(rewards)
        powers = (gamma**steps).astype(np.float32)
        spans = counted.sum(1)
        last = np.arange(len(indices)), spans - 1
        terminated = self._terminated.reshape(-1).take(flat[last])
        following = (rows + spans) % self._rows * width + lanes
        return Transitions(
            self._observations_at(indices),
            self._actions.reshape(-1, *self._actions.shape[2:]).take(indices, 0),
            (rewards * powers * counted).sum(1, dtype=np.float32),
            self._successors(following, slots[last]),
            np.where(terminated, 0.0, gamma**spans).astype(np.float32),
        )

    def _observations_at(self, flat: Array) -> Tree:
        return tree_map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:]).take(flat, 0), self._observations
        )

    def _successors(self, flat: Array, slots: Array) -> Tree:
        """Observations at flat rows [M], or from the pool where `slots` [M] names one."""
        found = self._observations_at(flat)
        ended = np.flatnonzero(slots != NONE)
        if len(ended):
            self._put(found, ended, self._pool, slots[ended])
        return found

    # -- checkpoints -----------------------------------------------------------------------------

    def get_state(self) -> dict[str, Array]:
        """Arrays by name from which `set_state` goes on; only rows that hold something."""
        used = self._rows if (self._sizes == self.capacity).any() else int(self._heads.max()) + 1
        state = {f"observations/{k}": v[:used] for k, v in _named(self._observations).items()}
        state |= {f"pool/{k}": v for k, v in _named(self._pool).items()}
        state |= {name: column[:used] for name, column in self._columns().items()}
        state |= {"heads": self._heads, "sizes": self._sizes}
        bits: Any = self._generator.bit_generator.state
        words = [*bits["state"]["counter"], *bits["state"]["key"], *bits["buffer"]]
        state["generator"] = np.array([*words, bits["buffer_pos"]], np.uint64)
        return {name: array.copy() for name, array in state.items()}

    def set_state(self, state: dict[str, Array]) -> None:
        """Goes on from what `get_state` gave; `KeyError` or `ValueError` when it is foreign."""
        used = state["rewards"].shape[0]
        if state["heads"].shape != self._heads.shape or used > self._rows:
            raise ValueError("the replay is of another number of environments or another size")
        if (state["sizes"] > self.capacity).any() or (state["heads"] >= self._rows).any():
            raise ValueError("the replay is of another size")
        for name, leaf in _named(self._observations).items():
            leaf[:used] = state[f"observations/{name}"]
        for name, column in self._columns().items():
            column[:used] = state[name]
        self._heads, self._sizes = state["heads"].copy(), state["sizes"].copy()
        pool = {name: state[f"pool/{name}"].copy() for name in _named(self._pool)}
        self._pool = pool if self._layout.nested else pool[""]
        held = set(self._slots[self._slots != NONE].tolist())
        self._free = [n for n in range(first_leaf(self._pool).shape[0]) if n not in held]
        bits: Any = self._generator.bit_generator.state
        words = state["generator"]
        bits["state"] = {"counter": words[:4], "key": words[4:6]}
        bits["buffer"], bits["buffer_pos"] = words[6:10], int(words[10])
        self._generator.bit_generator.state = bits

    def _columns(self) -> dict[str, Array]:
        return {
            "actions": self._actions,
            "rewards": self._rewards,
            "terminated": self._terminated,
            "slots": self._slots,
        }


def _named(tree: Tree) -> dict[str, Array]:
    return tree if isinstance(tree, dict) else {"": tree}
