"""Where a runner stands, told from outside by what it has sampled.

The state must outlive the runner, so it is not the runner that keeps it: whoever receives the
rollouts follows along. It is small, because episodes are played again, not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rl.core.data.rollout import Failure, Rollout
from rl.core.data.tree import Array

__all__ = ["LONGEST_HISTORY", "LaneState", "RunnerState"]

LONGEST_HISTORY = 1_000_000
"""Steps of one episode that are remembered for replay; a longer one starts afresh when restored."""
MOST_PIECES = 64
"""Fragments of one step would leave as many as there are steps, and every state lists them all."""


@dataclass(frozen=True)
class LaneState:
    """Where an environment stands: which episode, and what was done in it."""

    episode: int
    """Number of the episode, from 0."""
    steps: int
    """Steps taken in it."""
    # Of its actions as stored, each [n, *act]; None: too many, or not what brings it back.
    pieces: tuple[Array, ...] | None
    observation: tuple[Array, ...]
    """Leaves of the observation it has come to."""
    memory: Array | None = None
    """What the policy remembers of it, [S]; None: it has no memory."""

    @property
    def actions(self) -> Array | None:
        """All its actions [steps, *act]; None where they are not kept."""
        return None if self.pieces is None else np.concatenate(self.pieces)


@dataclass(frozen=True)
class CountedLanes(Sequence[LaneState]):
    """B environments whose episodes cannot be played again: all that is known of them in arrays.

    A vector environment has hundreds, and a fragment of it takes milliseconds.
    """

    episodes: Array
    """[B]; see `LaneState`, as for the others."""
    steps: Array
    """[B]."""
    leaves: tuple[Array, ...]
    """Each [B, ...]."""
    memory: Array | None
    """[B, S]."""

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, b: Any) -> Any:
        memory = None if self.memory is None else self.memory[b]
        observation = tuple(leaf[b] for leaf in self.leaves)
        return LaneState(int(self.episodes[b]), int(self.steps[b]), None, observation, memory)

    def after(self, rollout: Rollout, leaves: tuple[Array, ...]) -> CountedLanes:
        """What they are after a rollout without failures that came to these observations."""
        length, width = rollout.rewards.shape
        rows, lanes = rollout.final_steps.T
        since = np.zeros(width, np.int64)
        np.maximum.at(since, lanes, rows + 1)
        new = length - since
        if rollout.valid is not None:
            new = ((np.arange(length)[:, None] >= since) & rollout.valid).sum(0)
        return CountedLanes(
            self.episodes + np.bincount(lanes, minlength=width),
            np.where(since > 0, new, self.steps + new),
            leaves,
            None if rollout.memory is None else rollout.memory[-1].copy(),
        )


@dataclass(frozen=True)
class RunnerState:
    """Where a runner stands between fragments."""

    fragment: int = 0
    """Number of the next fragment."""
    lanes: Sequence[LaneState] = ()
    """None before the first fragment: nothing has been reset yet."""
    failures: int = 0
    """How often its environments have raised."""

    @property
    def steps(self) -> int:
        """Steps of unfinished episodes, all environments together."""
        if isinstance(self.lanes, CountedLanes):
            return int(self.lanes.steps.sum())
        return sum(lane.steps for lane in self.lanes)

    def after(self, rollout: Rollout) -> RunnerState:
        """The state after a rollout that began in this one. Keeps copies, not the rollout."""
        width = rollout.num_environments
        lanes = self.lanes or tuple(LaneState(0, 0, (), ()) for _ in range(width))
        nested = rollout.observations
        leaves = list(nested.values()) if isinstance(nested, dict) else [nested]
        last = [leaf[-1].copy() for leaf in leaves]
        if not rollout.replayable and not rollout.failures:
            after = _counted(lanes).after(rollout, tuple(last))
            return RunnerState(rollout.fragment + 1, after, self.failures)
        ends: list[list[int]] = [[] for _ in range(width)]
        for t, b in rollout.final_steps.tolist():
            ends[b].append(t)
        failed: list[list[Failure]] = [[] for _ in range(width)]
        for failure in rollout.failures:
            failed[failure.environment].append(failure)
        return RunnerState(
            rollout.fragment + 1,
            tuple(
                _advanced(
                    _begun_anew(lane, failed[b]),
                    rollout,
                    b,
                    ends[b],
                    tuple(leaf[b] for leaf in last),
                )
                for b, lane in enumerate(lanes)
            ),
            self.failures + len(rollout.failures),
        )


def _counted(lanes: Sequence[LaneState]) -> CountedLanes:
    """The same with the numbers alone, which is what others follow from."""
    if isinstance(lanes, CountedLanes):
        return lanes
    counts = np.array([(lane.episode, lane.steps) for lane in lanes], np.int64)
    return CountedLanes(counts[:, 0], counts[:, 1], (), None)


def _begun_anew(lane: LaneState, failures: Sequence[Failure]) -> LaneState:
    """The lane as it was before a rollout, but for episodes that failed without an end in it."""
    if not failures:
        return lane
    unmarked = [failure for failure in failures if not failure.ended]
    if not unmarked:
        return lane
    lane = replace(lane, episode=lane.episode + len(unmarked))
    if any(failure.step == 0 for failure in unmarked):
        return replace(lane, steps=0, pieces=())
    return lane


def _advanced(
    lane: LaneState, rollout: Rollout, b: int, ends: list[int], observation: tuple[Array, ...]
) -> LaneState:
    since = ends[-1] + 1 if ends else 0
    new = len(rollout.actions) - since
    if rollout.valid is not None:
        new = int(np.count_nonzero(rollout.valid[since:, b]))
    steps = new if ends else lane.steps + new
    pieces = None
    if rollout.replayable and steps <= LONGEST_HISTORY:
        before = () if ends else lane.pieces
        if before is not None:
            pieces = _joined((*before, rollout.actions[since:, b].copy()))
    memory = None if rollout.memory is None else rollout.memory[-1, b].copy()
    return LaneState(lane.episode + len(ends), steps, pieces, observation, memory)


def _joined(pieces: tuple[Array, ...]) -> tuple[Array, ...]:
    """The same actions in few pieces."""
    return pieces if len(pieces) < MOST_PIECES else (np.concatenate(pieces),)
