"""Plays an environment and notes whatever is wrong with what it returns."""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rl.core.data.masks import check_mask, has_choice
from rl.core.data.spaces import MASK, ActionLayout, Leaf, ObservationLayout
from rl.env_runners.faults import check_observation, check_step
from rl.errors import EnvironmentFault, RLError, UsageError

__all__ = ["EnvironmentReport", "Inspection", "Player", "Step", "StoppedError", "same"]

Environment = gymnasium.Env[Any, Any]

LONGEST_SPACE = 160
"""Characters a space is described with."""


@dataclass
class EnvironmentReport:
    """What was found out about an environment."""

    name: str
    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Each says what is wrong, where, and how to mend it."""
    notes: list[str] = field(default_factory=list)
    traceback: str = ""
    """Of the first error the environment raised."""

    @property
    def sound(self) -> bool:
        """Whether nothing was found that a run would stumble over."""
        return not self.problems

    def __str__(self) -> str:
        found = len(self.problems)
        verdict = "sound" if self.sound else f"{found} problem{'s' if found > 1 else ''}"
        lines = [f"{self.name}: {verdict}"]
        lines += [f"  {name:<13}{value}" for name, value in self.facts.items()]
        lines += [f"  problem: {text}" for text in self.problems]
        lines += [f"  note: {text}" for text in self.notes]
        return "\n".join(lines) + (f"\n\n{self.traceback}" if self.traceback else "")


class StoppedError(Exception):
    """The environment can be asked no further; the report says why."""


@dataclass
class Step:
    """What one step gave, copied."""

    observation: list[np.ndarray[Any, Any]]
    reward: float
    ended: bool


class Inspection:
    """Asks an environment and fills its report; a kind of problem is told once."""

    def __init__(self, make_env: Callable[[], Environment], report: EnvironmentReport) -> None:
        self.report = report
        self._make_env = make_env
        self._told: set[str] = set()

    def problem(self, kind: str, text: str) -> None:
        """Reports a kind of problem where it is first met."""
        if kind not in self._told:
            self._told.add(kind)
            self.report.problems.append(text)

    def note(self, kind: str, text: str) -> None:
        """Notes an oddity where it is first met."""
        if kind not in self._told:
            self._told.add(kind)
            self.report.notes.append(text)

    def call(self, what: str, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Calls a method of the environment; what it raises ends the inspection."""
        try:
            return function(*args, **named)
        except UsageError:
            raise
        except Exception as error:
            text = str(error) if isinstance(error, RLError) else f"{type(error).__name__}: {error}"
            self.problem(f"{what} raised", f"{what} raised {text}; the traceback is below")
            if not self.report.traceback:
                cause = error.__cause__ if isinstance(error, RLError) else error
                self.report.traceback = "".join(traceback.format_exception(cause or error))
            raise StoppedError from error

    def make(self) -> Environment:
        """A fresh environment."""
        env: Environment = self.call("the constructor", self._make_env)
        return env

    def layouts(self, env: Environment) -> tuple[ObservationLayout, ActionLayout]:
        """Reads the spaces."""
        made: list[Any] = []
        for name, layout in (
            ("observation_space", ObservationLayout),
            ("action_space", ActionLayout),
        ):
            space = getattr(env, name, None)
            if not isinstance(space, spaces.Space):
                self.problem(
                    name,
                    f"{name} is {space!r}, not a gymnasium.spaces.Space; set self.{name} in the"
                    " constructor",
                )
                continue
            self.report.facts[name.split("_")[0] + "s"] = _line(space)
            try:
                made.append(layout(space))
            except UsageError as error:
                self.problem(name, str(error))
        if len(made) < 2:
            raise StoppedError
        try:
            check_mask(made[0], made[1])
        except UsageError as error:
            self.problem("mask", str(error))
            raise StoppedError from error
        return made[0], made[1]


def _line(space: spaces.Space[Any]) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= LONGEST_SPACE else f"{text[: LONGEST_SPACE - 3]}..."


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

    def reset(self, seed: int | None) -> list[np.ndarray[Any, Any]]:
        """Resets; returns the leaves of the first observation."""
        call = f"reset(seed={seed})"
        result = self._inspection.call(call, self.env.reset, seed=seed)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            kind = type(result).__name__
            self._inspection.problem(
                "reset",
                f"{call} returned a {kind}, not the tuple (observation, info) with a dict last;"
                " write `return observation, {}`",
            )
            raise StoppedError
        self._info = result[1]
        return self._observation(result[0], call)

    def _observation(self, observation: Any, call: str) -> list[np.ndarray[Any, Any]]:
        inspection = self._inspection
        self._watch_buffers(observation)
        try:
            parts = self._layout.split(observation)
        except (KeyError, IndexError, TypeError) as error:
            inspection.problem(
                "parts", f"{call} returned an observation without the part {error} of its space"
            )
            raise StoppedError from error
        for leaf, part in zip(self._layout.leaves, parts, strict=True):
            try:
                check_observation(leaf, part, "the environment", call)
            except EnvironmentFault as fault:
                inspection.problem(f"observation {leaf.path}", f"{fault}; mend it or its space")
                raise StoppedError from fault
            self._values(leaf, np.asarray(part), call)
            if leaf.kind == "mask":
                self._mask = np.array(part)
        return [np.array(part) for part in parts]

    def _values(self, leaf: Leaf, array: np.ndarray[Any, Any], call: str) -> None:
        """Looks for NaN and for values outside a box."""
        at = f" at {leaf.path!r}" if leaf.path else ""
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            self._inspection.problem(
                f"finite {leaf.path}",
                f"{call} returned {array[place]} in the observation{at}, index {list(place)}; no"
                " network learns from that: find where it arises, or clip it",
            )
        space: Any = self._layout.space
        for name in leaf.path.split("/") if leaf.path else ():
            space = space[int(name)] if isinstance(space, spaces.Tuple) else space[name]
        if isinstance(space, spaces.Box):
            outside = (array < space.low) | (array > space.high)
            if outside.any():
                place = tuple(int(i) for i in np.argwhere(outside)[0])
                self._inspection.note(
                    f"bounds {leaf.path}",
                    f"{call} returned {array[place]} in the observation{at}, index {list(place)},"
                    f" outside its bounds {space.low[place]} to {space.high[place]}; widen them",
                )

    def _watch_buffers(self, observation: Any) -> None:
        """Sees whether an observation that was handed out has changed since."""
        for earlier, then in self._kept:
            if not same(earlier, then):
                self._inspection.note(
                    "aliasing",
                    "an observation changes after it was returned: the environment reuses its"
                    " buffer, and whoever keeps it sees later values; return a copy",
                )
        self._kept = [(observation, copy.deepcopy(observation))]

    def sample(self) -> Any:
        """An action, one that the environment allows where it tells."""
        space = self.env.action_space
        mask = self._info.get(MASK) if self._layout.mask is None else self._mask
        if mask is None or not self._actions.categorical:
            return space.sample()
        allowed = np.asarray(mask) != 0
        expected = (self._actions.num_parameters,)
        if allowed.shape != expected or not has_choice(self._actions, allowed):
            fault = "allows no action, and the episode has not ended"
            if allowed.shape != expected:
                fault = f"has the shape {allowed.shape}; {space} needs {expected}"
            self._inspection.problem("mask", f"the action mask {fault}")
            raise StoppedError
        columns = [np.flatnonzero(allowed[head.parameters]) for head in self._actions.heads]
        row = np.array([int(space.np_random.choice(column)) for column in columns])
        return self._actions.decode(row[None] if self._actions.shape else row)[0]

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
        try:
            check_step(result, self._layout, "the environment")
        except EnvironmentFault as fault:
            self._inspection.problem("step", f"{fault} (step {number}); mend step or the spaces")
            raise StoppedError from fault
        observation, reward, terminated, truncated, self._info = result
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool | np.bool_):
                self._inspection.problem(
                    name, f"{call} returned {name}={flag!r}; write bool(...) around it"
                )
        if not np.isfinite(reward):
            self._inspection.problem(
                "reward", f"{call} returned the reward {reward}; find where it arises, or clip it"
            )
        leaves = self._observation(observation, call)
        return Step(leaves, float(reward), bool(terminated or truncated))


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
