"""One fragment while it is being sampled: preallocated arrays, filled row by row, then sealed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rl.core.data.masks import has_choice
from rl.core.data.rollout import Episode, Rollout
from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.data.tree import Array, Tree
from rl.core.models.actor import Actor, FragmentNoise, kept_rows
from rl.core.runtime import note_progress
from rl.env_runners.faults import check_step, no_choice, not_finite, raised
from rl.env_runners.lane import Lane
from rl.errors import EnvironmentFault

__all__ = ["TIMED_ROWS", "Fragment", "Origin", "arrays_of"]

TIMED_ROWS = 8
"""Every so many rows one is timed: a look at the clock costs as much as a hundredth of a row."""

NOTHING = object()
"""What a step that raised has returned; None would be an answer."""


def arrays_of(tree: Tree) -> list[Array]:
    """The leaves of a tree in the order of its layout."""
    return list(tree.values()) if isinstance(tree, dict) else [tree]


class Origin(NamedTuple):
    """Whose a fragment is."""

    runner: int
    """Index of the runner."""
    fragment: int
    """Its number."""
    weights_version: int
    """Of what acts."""
    clock: float
    """When the runner began, by `time.perf_counter`."""


class Fragment:
    """T steps of B lanes. Its loop allocates little, logs nothing, talks to nobody."""

    replayable = True
    gap = 0
    """Rows between the end of an episode and the first step of the next."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        actor: Actor,
        layouts: tuple[ObservationLayout, ActionLayout],
        noise: FragmentNoise,
        first: Tree,
        memory: Array | None,
        origin: Origin,
    ) -> None:
        """Allocates the arrays.

        Args:
            lanes: The B environments.
            actor: Chooses the actions.
            layouts: Of observations and actions.
            noise: Of the T steps.
            first: What the first actions are chosen from, [B, *obs].
            memory: What the actor remembers then, [B, S]; None: it has no memory.
            origin: Whose it is.
        """
        self._lanes, self._actor, self._origin = lanes, actor, origin
        self._noise = noise
        self._layout, self._action_layout = layouts
        length, width = noise.length, noise.width
        self.length, self.width = length, width
        self._observations = self._layout.allocate(length + 1, width)
        self._leaves = arrays_of(self._observations)
        for leaf, start in zip(self._leaves, arrays_of(first), strict=True):
            leaf[0] = start
        actions = self._action_layout
        self._actions = np.empty((length, width, *actions.shape), actions.dtype)
        self._rewards = np.empty((length, width), np.float32)
        self._terminated = np.zeros((length, width), np.bool_)
        self._truncated = np.zeros((length, width), np.bool_)
        self._extras: dict[str, Array] = {}
        self._row_noise: Array | None = None  # of the row at hand
        self._final_steps: list[tuple[int, int]] = []
        self._final_leaves: list[list[Array]] = [[] for _ in self._leaves]
        self._episodes: list[Episode] = []
        # Row of the current episode's first step; negative when it began in an earlier fragment.
        self._began: Any = self._first_rows()
        self._entered = list(self._began)
        self._valid: Array | None = None
        self._kept = kept_rows(actor)
        self._memory: Array | None = None
        if memory is not None:
            self._memory = np.empty((length + 1, *memory.shape), np.float32)
            self._memory[0] = memory

    def _first_rows(self) -> Any:
        return [-lane.steps_before for lane in self._lanes]

    def _leave(self) -> None:
        """Tells the environments how far their episodes have come."""
        for b, lane in enumerate(self._lanes):
            lane.passed(self.length - max(self._began[b], 0))

    def run(self) -> Rollout:
        """Fills every row, checks and seals.

        Raises:
            EnvironmentFault: An environment raised or broke its contract.
        """
        return self.seal(self._fill())

    def seal(self, act_share: float) -> Rollout:
        """Checks what `run`, or who sampled row by row, has filled, and hands it over.

        Args:
            act_share: Part of the time it took that went into choosing actions.

        Raises:
            EnvironmentFault: A reward or an observation is not finite.
        """
        self.check_finite(self.length)
        self._leave()
        failures = [failure for lane in self._lanes for failure in lane.take_failures()]
        if failures:
            self._order_ends()
        nested = self._observations
        finals = self._finals()
        return Rollout(
            observations=nested,
            actions=self._actions,
            rewards=self._rewards,
            terminated=self._terminated,
            truncated=self._truncated,
            extras=self._extras,
            final_steps=(
                np.array(self._final_steps, np.int64)
                if self._final_steps
                else np.empty((0, 2), np.int64)
            ),
            final_observations=(
                dict(zip(nested, finals, strict=True)) if isinstance(nested, dict) else finals[0]
            ),
            valid=self._valid,
            memory=self._memory,
            on_device=None if self._kept is None else self._kept.sealed(nested),
            replayable=self.replayable and all(lane.replayable for lane in self._lanes),
            weights_version=self._origin.weights_version,
            runner=self._origin.runner,
            fragment=self._origin.fragment,
            episodes=tuple(self._episodes),
            failures=tuple(failures),
            act_share=act_share,
        )

    def _fill(self) -> float:
        """Samples every row; returns the part of the time that went into choosing actions."""
        acting = taken = 0.0
        for t in range(self.length):
            timed = t % TIMED_ROWS == 0
            began = time.perf_counter() if timed else 0.0
            try:
                self._act(t)
            except Exception:
                self.check_finite(t)  # a policy may choke on a NaN
                raise
            acted = time.perf_counter() if timed else 0.0
            self.step(t)
            if timed:
                acting += acted - began
                taken += time.perf_counter() - began
        return acting / taken if taken else 0.0

    def _finals(self) -> list[Array]:
        return [
            np.stack(kept) if kept else np.zeros((0, *leaf.shape[2:]), leaf.dtype)
            for kept, leaf in zip(self._final_leaves, self._leaves, strict=True)
        ]

    def _act(self, t: int) -> None:
        """Chooses the actions of row t."""
        self._row_noise = self._noise.row(t)
        self.put(t, *self._choose(t))

    def look(self, t: int) -> tuple[Tree, Array]:
        """What actions of row t are chosen from: observations [B, *obs] and noise [B, columns].

        For who chooses them in place of the actor, once a row, and gives them to `put`.
        """
        self._row_noise = self._noise.row(t)
        return self._observed(t), self._row_noise

    def put(self, t: int, actions: Array, extras: dict[str, Array]) -> None:
        """Keeps what was chosen in row t, [B, *act] and each [B, ...]."""
        self._actions[t] = actions
        if t == 0:
            self._extras = {
                name: np.empty((self.length, *values.shape), values.dtype)
                for name, values in extras.items()
            }
        for name, values in extras.items():
            self._extras[name][t] = values

    def _observed(self, t: int) -> Tree:
        """Row t of the observations, in which something may be done."""
        nested = self._observations
        row: Tree = (
            {path: leaf[t] for path, leaf in nested.items()}
            if isinstance(nested, dict)
            else nested[t]
        )
        mask = self._layout.mask_of(row)
        if mask is not None:
            self._check_choice(t, mask)
        return row

    def _choose(self, t: int) -> tuple[Array, dict[str, Array]]:
        """What the actor does in row t, by the noise of that row and what it remembers."""
        row = self._observed(t)
        if self._memory is None:
            actions, extras = self._actor.act(row, self._row_noise)
        else:
            actor: Any = self._actor  # a `RecurrentActor`
            actions, extras, self._memory[t + 1] = actor.act_with_memory(
                row, self._row_noise, self._memory[t]
            )
        if self._kept is not None:
            self._kept.keep(t)
        return actions, extras

    def _forget(self, t: int, memory: Array) -> None:
        """Zeroes what is remembered [B, S] where row t ended an episode, or was no step of one."""
        memory[self._terminated[t] | self._truncated[t]] = 0
        if self._valid is not None:
            memory[~self._valid[t]] = 0

    def _check_choice(self, t: int, mask: Array) -> None:
        """Raises where a mask [B, choices] leaves an environment nothing to choose."""
        stuck = np.flatnonzero(~has_choice(self._action_layout, mask))
        if len(stuck):
            raise no_choice(self._at(t, int(stuck[0])))

    def step(self, t: int) -> None:
        """Takes the actions of row t."""
        self._step(t)
        if self._memory is not None:
            self._forget(t, self._memory[t + 1])
        note_progress()

    def _step(self, t: int) -> None:
        """One action in every environment."""
        self._take(t, enumerate(self._action_layout.decode(self._actions[t])))

    def _take(self, t: int, chosen: Iterable[tuple[int, Any]]) -> None:
        """The hot loop: takes actions, each with the index of its environment."""
        lanes, layout = self._lanes, self._layout
        # Categories are looked at one by one: an impossible one would be encoded as another.
        categories = bool(layout.leaves[0].sizes)
        plain = None if layout.nested or categories else self._leaves[0][t + 1]
        shape, dtype = layout.leaves[0].shape, layout.space.dtype
        rewards = self._rewards[t]
        for b, action in chosen:
            lane = lanes[b]
            result: Any = NOTHING
            try:
                result = lane.step(action)
                observation, reward, terminated, truncated, info = result
                rewards[b] = reward
                lane.episode_return += float(reward)  # a float32 or float16 would sum in its kind
                if (
                    plain is not None
                    and type(observation) is np.ndarray
                    and observation.shape == shape
                    and observation.dtype == dtype
                ):
                    plain[b] = observation
                else:
                    self._put_checked(t + 1, b, result)
                if terminated or truncated:
                    self._end(t, b, bool(terminated), info)
                elif terminated is None or truncated is None:
                    check_step(result, self._layout, self._at(t, b))
                continue
            except Exception as error:
                fault = self._fault(t, b, action, result, error)
            self._renew(t, b, fault)

    def _put_checked(self, row: int, b: int, result: Any) -> None:
        check_step(result, self._layout, self._at(row - 1, b))
        for leaf, value in zip(self._leaves, self._layout.split(result[0]), strict=True):
            leaf[row, b] = value

    def _end(self, t: int, b: int, terminated: bool, info: dict[str, Any]) -> None:
        """Keeps the observation the episode ended on, then resets at once."""
        lane = self._lanes[b]
        (self._terminated if terminated else self._truncated)[t, b] = True
        self._final_steps.append((t, b))
        for finals, leaf in zip(self._final_leaves, self._leaves, strict=True):
            finals.append(leaf[t + 1, b].copy())
        length = t + 1 - self._began[b]
        self._episodes.append(lane.finish(t, length, info, self._origin.clock))
        self._began[b] = t + 1
        for leaf, value in zip(self._leaves, lane.reset(t + 1), strict=True):
            leaf[t + 1, b] = value

    def _fault(
        self, t: int, b: int, action: Any, result: Any, error: Exception
    ) -> EnvironmentFault:
        """What the environment raised; raises where an error in the loop is something else."""
        self.check_finite(t)  # an action chosen from a NaN may be what the environment choked on
        if isinstance(error, EnvironmentFault):
            raise error
        if result is NOTHING:
            fault = raised(self._at(t, b), f"step({action!r})", error)
            fault.__cause__ = error
            return fault
        check_step(result, self._layout, self._at(t, b))
        raise error

    def _renew(self, t: int, b: int, fault: EnvironmentFault) -> None:
        """Lane b raised in row t: its episode ends with the step before, and another begins here.

        The step that raised was none. Others are not disturbed: what they do in this row is chosen
        from the same observations by the same noise.
        """
        lane, progress = self._lanes[b], self._began[b] < t
        here = progress and t > 0  # else it is cut off between two fragments
        lane.fail(fault, t, ended=here, progress=progress)
        if here:
            self._truncated[t - 1, b] = True
            self._final_steps.append((t - 1, b))
            for finals, leaf in zip(self._final_leaves, self._leaves, strict=True):
                finals.append(leaf[t, b].copy())
        elif t == 0:
            self._entered[b] = 0
        self._began[b] = t
        for leaf, value in zip(self._leaves, lane.reset(t), strict=True):
            leaf[t, b] = value
        if self._memory is not None:
            self._memory[t, b] = 0
        actions, extras = self._choose(t)
        self._actions[t, b] = actions[b]
        for name, values in extras.items():
            self._extras[name][t, b] = values[b]
        self._take(t, [(b, list(self._action_layout.decode(self._actions[t]))[b])])

    def _order_ends(self) -> None:
        """Sorts the ends by row: where a lane failed they stand behind later ones."""
        order = sorted(range(len(self._final_steps)), key=lambda k: self._final_steps[k])
        self._final_steps = [self._final_steps[k] for k in order]
        self._final_leaves = [[kept[k] for k in order] for kept in self._final_leaves]

    def check_finite(self, rows: int) -> None:
        """Raises when a reward or observation of the first `rows` rows is NaN or infinite."""
        found: list[tuple[int, int, str, Any, tuple[int, ...]]] = []
        for kept in self._final_leaves:
            place = not_finite(np.array(kept)) if kept else None
            if place is not None:
                t, b = self._final_steps[place[0]]
                found.append((t, b, "observation", kept[place[0]][place[1:]], place[1:]))
        for what, array in [("reward", self._rewards[:rows])] + [
            ("observation", leaf[1 : rows + 1]) for leaf in self._leaves
        ]:
            place = not_finite(array)
            if place is not None:
                found.append((place[0], place[1], what, array[place], place[2:]))
        if found:
            self._refuse(*min(found, key=lambda one: one[:2]))  # others may follow from it

    def _refuse(self, t: int, b: int, what: str, value: Any, index: tuple[int, ...]) -> None:
        where = f" at index {list(index)}" if index else ""
        raise EnvironmentFault(
            f"{self._at(t, b)}: step returned the {what} {value}{where}; it must be finite. Find"
            " out in the environment where it comes from; nothing was learnt from it"
        )

    def _at(self, t: int, b: int) -> str:
        """Row t of lane b in words: which environment, which step of its episode."""
        ends = [end for end, lane in self._final_steps if lane == b and end < t]
        began = ends[-1] + 1 + self.gap if ends else self._entered[b]
        return f"{self._where(b)}, step {t + 1 - began} of its episode"

    def _where(self, b: int) -> str:
        return self._lanes[b].where
