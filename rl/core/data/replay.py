"""Replay: the latest transitions of B environments, every observation stored once.

Each environment has a ring of rows of its own. The successor of a row is the next row; where an
episode ended it is the final observation, which lies in a pool apart. The row at the write head
holds no transition yet, only the observation the newest one led to. What is stored is raw: n-step
sums and scaling happen when sampling.

Shapes: B environments, C transitions of each, R rows, M samples. Row r of environment b has the
index r * B + b.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl.core.data.blocks import STATE, Blocks, Part, Parts
from rl.core.data.frames import FrameRings
from rl.core.data.records import HEAD, NONE, Records
from rl.core.data.rings import Place, Rings
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import ActionLayout, ObservationLayout, Spaces
from rl.core.data.tree import Array, Tree, tree_map
from rl.core.data.windows import WindowReader, Windows
from rl.core.kernels.library import kernels
from rl.core.kernels.replay import CompiledReplay, Heads

__all__ = ["ReplayBuffer", "ReplayMark", "Transitions"]


@dataclass(frozen=True)
class ReplayMark:
    """A moment between two draws."""

    generator: Any
    """State of the generator."""
    largest: float = 0.0
    """Priority ever given, where draws are prioritised."""


@dataclass(frozen=True)
class Transitions:
    """M transitions of up to n steps each."""

    observations: Tree  # [M, *obs]
    actions: Array  # [M, *act]
    returns: Array  # [M] float32, rewards of m <= n steps, discounted
    next_observations: Tree  # [M, *obs], where the m steps led
    discounts: Array  # [M] float32, gamma^m, or 0 where the last step terminated


class ReplayBuffer:
    """A ring per environment, preallocated; draws uniformly.

    Where `spaces.stack` says that observations are stacks of frames, single frames are kept.
    """

    def __init__(
        self, spaces: Spaces, num_environments: int, size: int, seed: int, memory_size: int = 0
    ) -> None:
        """Allocates the rings; the memory is taken as they fill.

        Args:
            spaces: Of one environment.
            num_environments: B; rollouts come side by side, always in the same order.
            size: Transitions to keep, of all environments together; C is its B-th part.
            seed: Of the draws.
            memory_size: S, numbers the policy remembers at each step.
        """
        self.num_environments = num_environments
        self.capacity = size // num_environments
        if self.capacity < 1:
            raise ValueError(f"{size} transitions cannot hold one of {num_environments}")
        stack, layout = spaces.stack, ObservationLayout(spaces.observation)
        # The oldest stack is made of frames that are older still.
        self._rows = self.capacity + (1 if stack is None else stack.size)
        actions = ActionLayout(spaces.action)
        self._records = Records(actions, self._rows, num_environments, memory_size)
        self._rings = (
            Rings(layout.allocate, self._rows, num_environments)
            if stack is None
            else FrameRings(layout, stack, self._rows, num_environments)
        )
        self._blocks = Blocks(self._records, self._rings)
        self._lanes = np.arange(num_environments)
        heads = Heads.of(num_environments)
        self._written, self._heads, self._head_indices = heads.written, heads.rows, heads.indices
        self._ends, self._offsets = heads.ends, heads.offsets
        self._generator = np.random.Generator(np.random.Philox(seed))
        self._compiled: CompiledReplay | None = None
        plain = stack is None and not layout.nested and not memory_size
        if plain and kernels() is not None:
            of_actions = np.empty((0, *actions.shape), actions.dtype)
            parts = self._rings.columns["observations/"], self._records.words
            self._compiled = CompiledReplay(*parts, heads, self.capacity, of_actions)
        self._moved()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @staticmethod
    def bytes_needed(spaces: Spaces, size: int, memory_size: int = 0) -> int:
        """Memory of `size` transitions; final observations, one an episode, come on top."""
        observation = ObservationLayout(spaces.observation).num_bytes
        if spaces.stack is not None:
            observation = observation // spaces.stack.size + 1
        columns = Records.columns(ActionLayout(spaces.action), memory_size)
        return size * (observation + 4 * columns)

    def _moved(self) -> None:
        """Works out what adding and drawing need, after the write heads moved."""
        self._level = self.num_environments == 1 or bool((self._written == self._written[0]).all())
        self._heads[:] = self._written % self._rows
        self._head_indices[:] = self._heads * self.num_environments + self._lanes
        self._ends[:] = np.minimum(self._written, self.capacity).cumsum()
        self._offsets[:] = self._heads - self._ends
        self._records.slots[self._heads, self._lanes] = HEAD

    # -- writing ---------------------------------------------------------------------------------

    def add(self, rollout: Rollout) -> None:
        """Stores the steps of a rollout [T, B]; rows that are no steps leave no trace.

        An environment that began afresh since the last rollout, because it could not be restored,
        is seen by its observation: its last transition then ends where it led, without an end.

        Raises:
            ValueError: T is more than an environment's ring holds, or B is another.
        """
        length, width = rollout.rewards.shape
        if length > self.capacity or width != self.num_environments:
            raise ValueError(
                f"a rollout [{length}, {width}] does not go into {self.num_environments} rings of"
                f" {self.capacity}"
            )
        if rollout.valid is None and self._level and self._added(rollout):
            return
        first = tree_map(lambda leaf: leaf[0], rollout.observations)
        begins = self._rings.differ(self._head_indices, first)
        if begins.any():
            self._cut_off(begins & (self._written > 0))
        added: Array | int = length
        if rollout.valid is None and self._level:
            head, rows = int(self._heads[0]), None
            steps, observed = self._span(head, length), self._span(head, length + 1)
        else:
            steps, observed, rows, added = self._scattered(rollout)
        for to, _ in observed:
            slots = self._records.slots[to]
            held = slots >= 0
            if held.any():
                self._rings.pool.release(slots[held])
        self._rings.put(observed, rollout, self._head_indices, begins)
        for to, at in steps:
            self._records.put(to, rollout, at)
        if len(rollout.final_steps):
            t, b = rollout.final_steps.T
            ended = (self._heads[b] + t) % self._rows if rows is None else rows[t, b]
            self._records.slots[ended, b] = self._rings.keep_finals(rollout)
        self._written += added
        self._moved()
        self._stored([to for to, _ in steps])

    def _added(self, rollout: Rollout) -> bool:
        """Stores a rollout without gaps in one call, if it is one that goes so."""
        compiled, seen = self._compiled, rollout.observations
        if compiled is None or isinstance(seen, dict):
            return False
        head = int(self._heads[0])
        if not compiled.put(seen, rollout.actions, rollout.rewards, rollout.terminated):
            return False
        if len(rollout.final_steps):
            t, b = rollout.final_steps.T
            self._records.slots[(head + t) % self._rows, b] = self._rings.keep_finals(rollout)
        self._stored([to for to, _ in self._span(head, len(rollout.rewards))])
        return True

    def _span(self, head: int, count: int) -> list[Place]:
        """Rows for `count` steps of environments that all write at the same row, `head`."""
        fit = min(count, self._rows - head)
        places: list[Place] = [(slice(head, head + fit), slice(fit))]
        if fit < count:
            places.append((slice(0, count - fit), slice(fit, count)))
        return places

    def _scattered(self, rollout: Rollout) -> tuple[list[Place], list[Place], Array, Array]:
        """For rollouts with rows that are no steps, or once environments write at different rows.

        Returns:
            Where steps go, where what was observed goes, the row of each step [T, B], and how many
            steps each environment adds [B].
        """
        valid = rollout.valid
        steps = np.ones(rollout.rewards.shape, np.bool_) if valid is None else valid
        added, lanes = steps.sum(0), self._lanes
        rows = (self._heads + np.cumsum(steps, 0) - 1) % self._rows
        t, b = np.nonzero(steps)
        places: list[Place] = [((rows[t, b], b), (t, b))]
        heads = (self._heads + added) % self._rows
        return places, [*places, ((heads, lanes), (len(steps), lanes))], rows, added

    def _cut_off(self, lanes: Array) -> None:
        """Ends the newest transition of environments [B] bool at what was observed behind it."""
        rows = (self._heads - 1) % self._rows
        lanes = np.flatnonzero(lanes & (self._records.slots[rows, self._lanes] == NONE))
        if len(lanes):
            slots = self._rings.keep(self._head_indices[lanes])
            self._records.slots[rows[lanes], lanes] = slots

    def _stored(self, rows: list[Any]) -> None:
        """Called after transitions came to rows [R, B] and the oldest ones went."""

    # -- sampling --------------------------------------------------------------------------------

    def draw(self, size: int) -> Array:
        """Indices [M] of transitions, each as likely as any other, with replacement."""
        chances = self._generator.random(size)
        if self._compiled is not None:
            return self._compiled.draw(chances)
        places: Array = (chances * self._ends[-1]).astype(np.int64)
        if self.num_environments == 1:
            places += self._offsets
            places %= self._rows
            return places
        lanes = self._ends.searchsorted(places, side="right")
        places += self._offsets.take(lanes)
        places %= self._rows
        places *= self.num_environments
        places += lanes
        return places

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
        if n_step == 1:
            return self._single_steps(indices, gamma, scale)
        powers = np.arange(n_step)
        taken = self._records.take(indices[:, None] + powers * self.num_environments)  # [M, n]
        slots = taken.slots
        counted = np.ones(slots.shape, np.bool_)
        goes_on = (slots[:, :-1] == NONE) & (slots[:, 1:] != HEAD)
        np.logical_and.accumulate(goes_on, 1, out=counted[:, 1:])
        rewards = taken.rewards if scale is None else scale(taken.rewards)
        returns = rewards * (gamma**powers).astype(np.float32) * counted
        spans = counted.sum(1)
        last = np.arange(len(indices)), spans - 1
        return Transitions(
            self._rings.take(indices),
            taken.actions[:, 0],
            returns.sum(1, dtype=np.float32),
            self._rings.successors(indices + spans * self.num_environments, slots[last]),
            (taken.carries_on[last] * gamma**spans).astype(np.float32),
        )

    def _single_steps(
        self, indices: Array, gamma: float, scale: Callable[[Array], Array] | None
    ) -> Transitions:
        """`gather` of one step each, to the same bits, without what only more of them need."""
        finals = self._rings.pool.rows
        if self._compiled is not None and not isinstance(finals, dict):
            seen, actions, rewards, following, discounts = self._compiled.take(
                indices, gamma, finals
            )
            if scale is not None:
                rewards = scale(rewards[:, None])[:, 0].astype(np.float32, copy=False)
            return Transitions(seen, actions, rewards, following, discounts)
        taken = self._records.take(indices)
        rewards = taken.rewards
        if scale is not None:
            rewards = scale(rewards[:, None])[:, 0].astype(np.float32, copy=False)
        return Transitions(
            self._rings.take(indices),
            taken.actions,
            rewards,
            self._rings.successors(indices + self.num_environments, taken.slots),
            taken.carries_on * np.float32(gamma),
        )

    def gather_windows(
        self,
        indices: Array,
        lengths: tuple[int, int],
        n_step: int,
        gamma: float,
        scale: Callable[[Array], Array] | None = None,
    ) -> Windows:
        """What follows and precedes the transitions at indices [M], from `draw`.

        Args:
            indices: [M].
            lengths: Transitions of a window at most, and those leading up to it.
            n_step: As with `gather`.
            gamma: As with `gather`.
            scale: As with `gather`.
        """
        return self._reader(indices, lengths).read(n_step, gamma, scale)

    def window_lengths(self, indices: Array, lengths: tuple[int, int]) -> Array:
        """How many transitions each window of `gather_windows` has, [M] int64."""
        return self._reader(indices, lengths).lengths

    def _reader(self, indices: Array, lengths: tuple[int, int]) -> WindowReader:
        """Of the windows that begin at these indices."""
        lanes = indices % self.num_environments
        # As many transitions lie from each on, itself included, and so many before it.
        later = (self._heads[lanes] - indices // self.num_environments) % self._rows
        earlier = np.minimum(self._written, self.capacity)[lanes] - later
        place = indices, earlier, later
        return WindowReader(self._records, self._rings, self.num_environments, place, lengths)

    # -- draws that are taken back ---------------------------------------------------------------

    def mark(self) -> ReplayMark:
        """A moment to which `rewind` can go back, until the next one."""
        return ReplayMark(self._generator.bit_generator.state)

    def rewind(self, mark: ReplayMark) -> None:
        """Draws from now on what was drawn from `mark` on; what was stored since stays."""
        self._generator.bit_generator.state = mark.generator

    def position(self) -> tuple[Any, ...]:
        """What two buffers with the same content and the same draws have in common."""
        bits: Any = self._generator.bit_generator.state
        words = [*bits["state"]["counter"], *bits["state"]["key"], bits["buffer_pos"]]
        return tuple(map(int, (*words, *self._written)))

    # -- checkpoints -----------------------------------------------------------------------------

    def get_state(self, known: Collection[str] = ()) -> Parts:
        """Arrays from which `set_state` goes on, in parts; nothing changes them later.

        Args:
            known: Names of parts that are had already. They never change, except `STATE`.
        """
        bits: Any = self._generator.bit_generator.state
        words = [*bits["state"]["counter"], *bits["state"]["key"], *bits["buffer"]]
        blocks, tail = self._blocks.get(self._written, known)
        own = {
            "generator": np.array([*words, bits["buffer_pos"]], np.uint64),
            "written": self._written.copy(),
            "block_length": np.array(self._blocks.length),
        }
        return {**blocks, STATE: {**tail, **own}}

    def set_state(self, parts: Mapping[str, Part | None]) -> None:
        """Goes on from what `get_state` gave; `KeyError` or `ValueError` when it is foreign."""
        state = parts[STATE]
        if state is None:
            raise ValueError(f"the part {STATE} is missing")
        written = state["written"]
        fits = written.shape == self._written.shape and written.dtype == self._written.dtype
        if not fits or int(state["block_length"]) != self._blocks.length:
            raise ValueError("the replay is of another number of environments or another size")
        self._blocks.clear()
        for name, part in parts.items():
            if part is None:
                raise ValueError(f"the part {name} is missing")
            self._blocks.put(part, written)
        self._written[:] = written
        bits: Any = self._generator.bit_generator.state
        words = state["generator"]
        bits["state"] = {"counter": words[:4], "key": words[4:6]}
        bits["buffer"], bits["buffer_pos"] = words[6:10], int(words[10])
        self._generator.bit_generator.state = bits
        self._moved()
