"""A rollout as sequences: what follows each other within an episode.

Each environment's T rows are cut into chunks of L, and these into sequences where an episode ends.
A row that is no step is in none of them. Chunks are what minibatches are drawn of; sequences are
what a network with memory goes through, from the state that acted at their first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rl.core.data.tree import Array

__all__ = ["Packing", "Sequences", "pack", "ranges"]


class Packing(NamedTuple):
    """Sequences side by side, longest first: all first steps, then all second steps, ..."""

    steps: Array  # [m] int64, numbers of the steps
    batch_sizes: Array  # [longest] int64: how many sequences have a step t
    sequences: Array  # [P] int64, numbers of the sequences


@dataclass(frozen=True)
class Sequences:
    """n steps in the order of environments and time, P sequences of them, C chunks."""

    rows: Array  # [n] int64: t * B + b of each step
    first: Array  # [P] int64: number of each sequence's first step
    lengths: Array  # [P] int64
    bounds: Array  # [C+1] int64: chunk c has the sequences from bounds[c] to bounds[c+1]

    @staticmethod
    def cut(done: Array, valid: Array | None, length: int) -> Sequences:
        """Cuts a rollout.

        Args:
            done: [T, B] bool, where an episode ended.
            valid: [T, B] bool, which rows are steps; None: all.
            length: L; the last chunk of an environment may be shorter.
        """
        time, width = done.shape
        steps = np.ones_like(done) if valid is None else valid
        begins = np.zeros_like(done)
        begins[::length] = True
        begins[1:] |= done[:-1] | ~steps[:-1]
        begins &= steps
        ends = np.ones_like(done)
        ends[:-1] = begins[1:] | ~steps[1:]
        ends &= steps
        order = np.flatnonzero(steps.T)  # b * T + t
        b, t = np.divmod(order, time)
        first = np.flatnonzero(begins.T.ravel()[order])
        last = np.flatnonzero(ends.T.ravel()[order])
        chunks = (b * time + t // length)[first]
        new = np.flatnonzero(np.diff(chunks, prepend=-1))
        bounds = np.append(new, len(first))
        return Sequences(t * width + b, first, last - first + 1, bounds)

    @property
    def num_chunks(self) -> int:
        """C."""
        return len(self.bounds) - 1

    @property
    def last(self) -> Array:
        """Number of each sequence's last step, [P] int64."""
        return self.first + self.lengths - 1

    def of(self, chunks: Array) -> Array:
        """Numbers of the sequences of some chunks."""
        return ranges(self.bounds[chunks], self.bounds[chunks + 1] - self.bounds[chunks])

    def steps_of(self, chunks: Array) -> Array:
        """Numbers of the steps of some chunks."""
        sequences = self.of(chunks)
        return ranges(self.first[sequences], self.lengths[sequences])

    def pack(self, chunks: Array) -> Packing:
        """The steps of some chunks as a network with memory goes through them."""
        return pack(self.first, self.lengths, self.of(chunks))


def pack(first: Array, lengths: Array, sequences: Array) -> Packing:
    """Some sequences as a network with memory goes through them.

    Args:
        first: Number of each sequence's first step, [P] int64; the others follow it.
        lengths: Steps of each, [P] int64, all above 0.
        sequences: Numbers of those that are packed, at least one.
    """
    order = np.argsort(-lengths[sequences], kind="stable")
    sequences = sequences[order]
    lengths = lengths[sequences]
    times = np.arange(lengths[0])
    batch_sizes = len(lengths) - np.searchsorted(lengths[::-1], times, side="right")
    place = ranges(np.zeros_like(batch_sizes), batch_sizes)
    steps = first[sequences][place] + np.repeat(times, batch_sizes)
    return Packing(steps, batch_sizes, sequences)


def ranges(starts: Array, counts: Array) -> Array:
    """starts[0], starts[0] + 1, ... counts[0] of them, then those of the next start."""
    before = np.cumsum(counts) - counts
    found: Array = np.arange(counts.sum()) + np.repeat(starts - before, counts)
    return found
