"""Windows of a replay buffer: transitions in the order they happened, for networks with memory.

A window begins at a transition that was drawn and goes on within its episode. What happened right
before, up to the beginning of the episode, leads up to it: a network that has changed since works
out from there what it would remember by now (burn-in, Kapturowski et al. 2019, "R2D2", section 3).

Shapes: M windows of at most L transitions each, m transitions in all of them, S numbers remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rl.core.data.records import NONE, Records, Steps
from rl.core.data.rings import Rings
from rl.core.data.sequences import pack, ranges
from rl.core.data.tree import Array, Tree

__all__ = ["Unrolled", "WindowReader", "Windows"]


@dataclass(frozen=True)
class Unrolled:
    """Sequences of observations side by side, the longest first, as `Packing` has them."""

    observations: Tree  # [n, *obs]
    batch_sizes: Array  # [longest] int64
    windows: Array  # [P] int64, number of the window that each sequence belongs to


@dataclass(frozen=True)
class Windows:
    """M windows of transitions of up to n steps each."""

    memory: Array  # [M, S] float32, what the policy remembered at the first observation
    before: Unrolled | None  # what leads up to windows; None where nothing does
    seen: Unrolled  # their states and what these led to
    states: Array  # [m] int64, where in `seen` each transition begins
    successors: Array  # [m] int64, and where its steps led
    owners: Array  # [m] int64, number of its window
    actions: Array  # [m, *act]
    returns: Array  # [m] float32, rewards of at most n steps, discounted
    discounts: Array  # [m] float32, gamma to the number of steps, or 0 where the last terminated


class WindowReader:
    """Finds out where windows begin and end, then takes them out of a buffer."""

    def __init__(
        self,
        records: Records,
        rings: Rings,
        width: int,
        place: tuple[Array, Array, Array],
        lengths: tuple[int, int],
    ) -> None:
        """Measures M windows.

        Args:
            records: Of the steps.
            rings: Of the observations.
            width: B; the index of an environment's next step is so much higher.
            place: Indices of the transitions they begin with, and how many transitions of the same
                environment are older and, itself included, not older; [M] each.
            lengths: L, and how many transitions may lead up to a window.
        """
        self._records, self._rings, self._width = records, rings, width
        self._indices, earlier, self._later = place
        self._length, most = lengths
        reach = np.arange(1, most + 1)
        before = records.take(self._indices[:, None] - reach * width).slots
        leads_up = (before == NONE) & (reach <= earlier[:, None])
        self._before = np.logical_and.accumulate(leads_up, 1).sum(1)  # [M]
        self.lengths = np.minimum(self._stretch(self._length)[1], self._length)
        """Transitions of each window, [M] int64."""

    def _stretch(self, most: int) -> tuple[Steps, Array]:
        """Rows [M, most] from where windows begin; how many of each are of its episode, [M]."""
        reach = np.arange(most)
        words = self._records.take(self._indices[:, None] + reach * self._width)
        counted = reach < self._later[:, None]
        counted[:, 1:] &= words.slots[:, :-1] == NONE
        return words, np.logical_and.accumulate(counted, 1).sum(1)

    def read(self, n_step: int, gamma: float, scale: Callable[[Array], Array] | None) -> Windows:
        """The windows; see `ReplayBuffer.gather` for the arguments."""
        words, counts = self._stretch(self._length + n_step - 1)
        rewards = words.rewards if scale is None else scale(words.rewards)
        owners = np.repeat(np.arange(len(counts)), self.lengths)
        within = ranges(np.zeros_like(self.lengths), self.lengths)  # [m]
        spans = np.minimum(n_step, counts[owners] - within)
        returns = np.zeros(len(owners), np.float32)
        for step in range(n_step):
            reward = rewards[owners, np.minimum(within + step, rewards.shape[1] - 1)]
            returns += np.where(step < spans, reward * np.float32(gamma**step), np.float32(0))
        carries_on = words.carries_on[owners, within + spans - 1]
        seen, first, places = self._seen(counts, words)
        begins = first[owners] + within
        return Windows(
            self._records.take(self._indices - self._before * self._width).memory,
            self._leading_up(),
            seen,
            places[begins],
            places[begins + spans],
            owners,
            words.actions[owners, within],
            returns,
            (carries_on * gamma**spans).astype(np.float32),
        )

    def _seen(self, counts: Array, words: Steps) -> tuple[Unrolled, Array, Array]:
        """States of so many transitions of each window, and what the last one led to.

        Returns:
            Them; number of the first of each window, in the order of windows; and of each number
            the place.
        """
        lengths = counts + 1
        first = np.cumsum(lengths) - lengths
        packing = pack(first, lengths, np.arange(len(counts)))
        within = ranges(np.zeros_like(lengths), lengths)
        flat = np.repeat(self._indices, lengths) + within * self._width
        slots = np.full(len(flat), NONE)
        slots[first + counts] = words.slots[np.arange(len(counts)), counts - 1]
        order = packing.steps
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        observations = self._rings.successors(flat[order], slots[order])
        return Unrolled(observations, packing.batch_sizes, packing.sequences), first, places

    def _leading_up(self) -> Unrolled | None:
        """The observations before each window that has any."""
        windows = np.flatnonzero(self._before)
        if not len(windows):
            return None
        lengths = self._before[windows]
        first = np.cumsum(lengths) - lengths
        packing = pack(first, lengths, np.arange(len(windows)))
        within = ranges(np.zeros_like(lengths), lengths)
        flat = np.repeat(self._indices[windows] - lengths * self._width, lengths)
        flat = (flat + within * self._width)[packing.steps]
        sequences = windows[packing.sequences]
        return Unrolled(self._rings.take(flat), packing.batch_sizes, sequences)
