"""Plays an environment and notes whatever is wrong with what it returns."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rl.core.data.masks import has_choice
from rl.core.data.spaces import MASK, ActionLayout, Leaf, ObservationLayout
from rl.core.data.tree import Array
from rl.env_runners.faults import check_flag, check_info, check_observation, check_reward
from rl.errors import EnvironmentFault
from rl.testing.env_report import Inspection, StoppedError

__all__ = ["Player", "Step", "allowed_action", "check_values", "same"]

Environment = gymnasium.Env[Any, Any]


@dataclass
class Step:
    """What one step gave, copied."""

    observation: list[Array]
    reward: float
    terminated: bool
    truncated: bool

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


class Player:
    """Plays an environment, checking everything it returns."""

    def __init__(
        self, inspection: Inspection, env: Environment, observations: ObservationLayout
    ) -> None:
        self._inspection = inspection
        self.env = env
        self._layout = observations
        self._kept: list[tuple[Any, Any]] = []
        self._actions = ActionLayout(env.action_space)
        self._info: Mapping[str, Any] = {}
        self._mask: Any = None
        self.seconds = 0.0
        """Spent in the environment's `step`."""

    def reset(self, seed: int | None) -> list[Array]:
        """Resets; returns the leaves of the first observation."""
        call = f"reset(seed={seed})"
        result = self._inspection.call(call, self.env.reset, seed=seed)
        if not isinstance(result, tuple) or len(result) != 2:
            size = f" of {len(result)}" if isinstance(result, tuple) else ""
            self._inspection.problem(
                "reset",
                f"{call} returned a {type(result).__name__}{size}, not the tuple (observation,"
                " info) with a dict last; write `return observation, {}`",
            )
            raise StoppedError
        observation, info = result
        if not isinstance(info, dict):
            self._inspection.problem(
                "reset",
                f"{call} returned info={info!r} of type {type(info).__name__}, not a dict; write"
                " `return observation, {}`",
            )
        self._info = info if isinstance(info, dict) else {}
        return self._observation(observation, call)

    def _observation(self, observation: Any, call: str) -> list[Array]:
        inspection = self._inspection
        self._watch_buffers(observation)
        try:
            parts = self._layout.split(observation)
        except (KeyError, IndexError, TypeError) as error:
            inspection.problem(
                "parts",
                f"{call} returned an observation without the part {error} of its space; return"
                " every part of the space at every step",
            )
            raise StoppedError from error
        for leaf, part in zip(self._layout.leaves, parts, strict=True):
            try:
                check_observation(leaf, part, "the environment", call)
            except EnvironmentFault as fault:
                inspection.problem(f"observation {leaf.path}", f"{fault}; mend it or its space")
                continue
            check_values(inspection, self._layout, leaf, np.asarray(part), call)
            if leaf.kind == "mask":
                self._mask = np.array(part)
        try:
            return [np.array(part) for part in parts]
        except ValueError as error:  # rows of unequal length, which is told already
            raise StoppedError from error

    def _watch_buffers(self, observation: Any) -> None:
        """Sees whether an observation that was handed out has changed since."""
        for earlier, then in self._kept:
            if not same(earlier, then):
                self._inspection.problem(
                    "aliasing",
                    "an observation that reset or step returned is changed by the next step: the"
                    " environment writes into the same array, and whoever keeps it, such as a frame"
                    " stack, sees later values; return observation.copy()",
                )
        try:
            self._kept = [(observation, copy.deepcopy(observation))]
        except Exception:  # what is no observation at all is told elsewhere
            self._kept = []

    def sample(self) -> Any:
        """An action, one that the environment allows where it tells."""
        mask = self._info.get(MASK) if self._layout.mask is None else self._mask
        return allowed_action(self._inspection, self._actions, mask)

    def step(self, action: Any, number: int) -> Step:
        """Takes a step."""
        call = f"step {number}, step({action!r})"
        given = copy.deepcopy(action)
        began = time.perf_counter()
        result = self._inspection.call(call, self.env.step, given)
        self.seconds += time.perf_counter() - began
        if not same(action, given):
            self._inspection.note(
                "action", f"{call} changed the action it was given; work on a copy of it"
            )
        if not isinstance(result, tuple | list) or len(result) != 5:
            size = f" of {len(result)}" if isinstance(result, tuple | list) else ""
            self._inspection.problem(
                "step",
                f"{call} returned a {type(result).__name__}{size}, expected the tuple of 5; write"
                " `return observation, reward, terminated, truncated, {}`, where terminated is an"
                " end of the task itself and truncated one from outside, such as a time limit",
            )
            raise StoppedError
        observation, reward, terminated, truncated, info = result
        reward = self._reward(reward, call)
        over = [
            self._flag(name, flag, call)
            for name, flag in (("terminated", terminated), ("truncated", truncated))
        ]
        fine = self._fine("info", "write `{}` in its place", call, check_info, info)
        self._info = info if fine else {}
        if self._info.get("TimeLimit.truncated") and over[0]:
            self._inspection.problem(
                "limit",
                f"{call} returned terminated=True and says in info['TimeLimit.truncated'] that only"
                " the time was over; return terminated=False, truncated=True, so that what lies"
                " beyond the limit keeps its value",
            )
        leaves = self._observation(observation, call)
        return Step(leaves, reward, over[0], over[1])

    def _fine(
        self, kind: str, mend: str, call: str, check: Callable[..., None], *args: Any
    ) -> bool:
        """Whether a check of a part of a step's result finds nothing."""
        try:
            check(*args, call)
        except EnvironmentFault as fault:
            self._inspection.problem(kind, f"{fault}; {mend}")
            return False
        return True

    def _reward(self, reward: Any, call: str) -> float:
        if not self._fine("reward", "return float(reward)", call, check_reward, reward):
            return 0.0
        if not np.isfinite(reward):
            self._inspection.problem(
                "reward", f"{call} returned the reward {reward}; find where it arises, or clip it"
            )
        return float(reward)

    def _flag(self, name: str, flag: Any, call: str) -> bool:
        if not self._fine(name, "write bool(...) around it", call, check_flag, name, flag):
            return False
        if not isinstance(flag, bool | np.bool_):
            self._inspection.problem(
                name, f"{call} returned {name}={flag!r}; write bool(...) around it"
            )
        return bool(flag)


def allowed_action(inspection: Inspection, actions: ActionLayout, mask: Any) -> Any:
    """A random action of a space, by the space's own generator, that a mask allows if given."""
    space = actions.space
    if mask is None or not actions.categorical:
        return space.sample()
    allowed = np.asarray(mask) != 0
    expected = (actions.num_parameters,)
    if allowed.shape != expected or not has_choice(actions, allowed):
        fault = "allows no action, and the episode has not ended; allow one, or end it before"
        if allowed.shape != expected:
            fault = f"has the shape {allowed.shape}; {space} needs {expected}"
        inspection.problem("mask", f"the action mask {fault}")
        raise StoppedError
    columns = [np.flatnonzero(allowed[head.parameters]) for head in actions.heads]
    row = np.array([int(space.np_random.choice(column)) for column in columns])
    return actions.decode(row[None] if actions.shape else row)[0]


def check_values(
    inspection: Inspection, layout: ObservationLayout, leaf: Leaf, array: Array, call: str
) -> None:
    """Looks for NaN, for values outside a box and for another dtype in a leaf, or a batch of it."""
    at = f" at {leaf.path!r}" if leaf.path else ""
    finite = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, np.bool_)
    if not finite.all():
        place = tuple(int(i) for i in np.argwhere(~finite)[0])
        inspection.problem(
            f"finite {leaf.path}",
            f"{call} returned {array[place]} in the observation{at}, index {list(place)}; no"
            " network learns from that: find where it arises, or clip it",
        )
    space: Any = layout.space
    for name in leaf.path.split("/") if leaf.path else ():
        space = space[int(name)] if isinstance(space, spaces.Tuple) else space[name]
    if not isinstance(space, spaces.Box) or leaf.kind == "mask":
        return
    low, high = np.broadcast_arrays(space.low, space.high)
    room = 1e-5 * np.maximum(1.0, np.abs(np.where(np.isfinite(low), low, 0)))  # for rounding
    above = 1e-5 * np.maximum(1.0, np.abs(np.where(np.isfinite(high), high, 0)))
    outside = ((array < low - room) | (array > high + above)) & finite
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        own = place[array.ndim - low.ndim :]
        inspection.problem(
            f"bounds {leaf.path}",
            f"{call} returned {array[place]} in the observation{at}, index {list(place)}, outside"
            f" its bounds {low[own]} to {high[own]}; clip it, or widen the bounds of the"
            " observation space",
        )
    elif array.dtype != space.dtype and space.dtype is not None:
        inspection.note(
            f"dtype {leaf.path}",
            f"{call} returned the observation{at} as {array.dtype}, its space says {space.dtype}:"
            f" it is converted at every step; write .astype(np.{np.dtype(space.dtype).name})",
        )


def same(first: Any, second: Any) -> bool:
    """Equality in every bit, NaN equal to itself, through dicts and tuples."""
    if isinstance(first, Mapping):
        return all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    one, other = np.asarray(first), np.asarray(second)
    if one.dtype.kind == "f" and other.dtype.kind == "f":
        return np.array_equal(one, other, equal_nan=True)
    return np.array_equal(one, other)
