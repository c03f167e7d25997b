"""Lane: one environment of a runner, its episodes, and where it can be taken up again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from rl.core.data.rollout import Episode, Failure
from rl.core.data.spaces import MASK, ActionLayout, ObservationLayout
from rl.core.runtime import note_progress
from rl.core.seeding import episode_seed
from rl.env_runners.faults import check_reset, raised, score_of, success_of
from rl.env_runners.runner_state import LaneState
from rl.errors import EnvironmentFault

__all__ = ["Lane"]

FRUITLESS = 3
"""Failures in a row without a step in between; another environment would do no better."""


class Lane:
    """One environment, reset with a seed of its own for every episode.

    The seed is a function of (root seed, runner, environment, episode), so an episode does not
    depend on what was played before it, and the state of an environment that is deterministic given
    its seed is just the episode's number and the actions since.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        name: str,
        place: tuple[int, int, int],
        layout: ObservationLayout,
        actions: ActionLayout,
        make_anew: Callable[[], gymnasium.Env[Any, Any]] | None = None,
    ) -> None:
        """Takes an environment over; it is not reset yet.

        Args:
            env: The environment.
            name: What messages call it.
            place: (root seed, runner, index in the runner).
            layout: Of its observations.
            actions: Of its actions.
            make_anew: Makes another in its place when it raises; None: that is an error.
        """
        self.env = env
        self.step = env.step
        self.name = name
        self._place = place
        self._layout = layout
        self._actions = actions
        # Seeding the arcade emulator reloads its ROM, 86 ms: its first episode is seeded, no later
        # one.
        self._seed_each = not hasattr(env.unwrapped, "ale")
        self.replayable = self._seed_each
        """Whether seeds and actions bring its episodes back."""
        self._seeded = False
        self._make_anew = make_anew
        self._fruitless = 0
        self._failures: list[Failure] = []  # since somebody took them last
        self._episode = 0
        self._steps_before = 0
        self.episode_return = 0.0

    @property
    def where(self) -> str:
        """The lane in words, for messages."""
        return f"env {self.name} (runner {self._place[1]}, environment {self._place[2]})"

    @property
    def episode(self) -> int:
        """Number of the episode now played, from 0."""
        return self._episode - 1

    @property
    def steps_before(self) -> int:
        """Steps of the current episode taken in earlier fragments."""
        return self._steps_before

    def reset(self, row: int = 0) -> list[Any]:
        """Begins the next episode; returns the leaves of its first observation.

        One whose reset raises is left out, where environments may fail: the next has another seed.

        Args:
            row: Of the fragment in which it begins, for the record of a failure.
        """
        while True:
            try:
                return self._reset()
            except EnvironmentFault as fault:
                self.fail(fault, row)

    def fail(
        self, fault: EnvironmentFault, row: int, *, ended: bool = False, progress: bool = False
    ) -> None:
        """Notes that the environment raised, and makes another in its place.

        Args:
            fault: What it did.
            row: Where its next episode begins.
            ended: See `Failure`.
            progress: Whether the episode it breaks off had come a step far.

        Raises:
            EnvironmentFault: It is none that another environment would not have, or environments
                may not fail.
        """
        self._fruitless = 0 if progress else self._fruitless + 1
        if self._make_anew is None or not fault.user_traceback or self._fruitless >= FRUITLESS:
            raise fault
        told = Failure(row, self._place[2], ended, str(fault), fault.user_traceback)
        self._failures.append(told)
        with contextlib.suppress(Exception):  # it is broken: what it says to that is of no use
            self.env.close()
        # What it holds must go before another is made: it may have raised for want of memory, and
        # tracebacks keep the frames alive in which it did.
        fault.__cause__ = fault.__context__ = fault.__traceback__ = None
        self._take_over(gymnasium.Env())
        self._take_over(self._make_anew())
        self._seeded = False

    def _take_over(self, env: gymnasium.Env[Any, Any]) -> None:
        self.env, self.step = env, env.step

    def _reset(self) -> list[Any]:
        needed = self._seed_each or not self._seeded
        seed = episode_seed(*self._place, self._episode) if needed else None
        self._seeded = True
        self._episode += 1
        call = f"reset(seed={seed})"
        try:
            result = self.env.reset(seed=seed)
        except Exception as error:
            raise raised(self.where, call, error) from error
        leaves = check_reset(result, self._layout, self.where, call)
        self._check_unseen_mask(result[1], call)
        self._steps_before = 0
        self.episode_return = 0.0
        return leaves

    def finish(self, t: int, length: int, info: dict[str, Any], began: float) -> Episode:
        """The record of the episode that ended in row t of the current fragment."""
        self._check_unseen_mask(info, "step")
        self._fruitless = 0
        seconds = time.perf_counter() - began
        return Episode(t, score_of(info, self.episode_return), length, seconds, success_of(info))

    def _check_unseen_mask(self, info: Any, call: str) -> None:
        """Raises where a mask is told only now: runs begun without one would ignore it."""
        if self._layout.mask is None and self._actions.categorical and MASK in info:
            raise EnvironmentFault(
                f"{self.where}: {call} returned an info with {MASK!r}, which the first reset of the"
                " run had not; give it with every reset and step, or never"
            )

    def take_failures(self) -> list[Failure]:
        """Those since the last call."""
        taken, self._failures = self._failures, []
        return taken

    def passed(self, steps: int) -> None:
        """Notes how many steps of the current episode the fragment that ends has taken."""
        self._steps_before += steps

    def restore(self, state: LaneState) -> tuple[list[Any], int]:
        """Plays the episode of a state again.

        Returns:
            The leaves of the observation it is at, and how many steps are lost: 0 when it arrived
            where the state says; else the length of the episode, and a fresh one has begun.
        """
        self._episode = state.episode
        actions = state.actions
        if actions is None or not self._seed_each:
            self._episode += 1
            return self.reset(), state.steps
        leaves, ended = self.reset(), False
        fault: EnvironmentFault | None = None
        if self._failures:  # it cannot even be begun again
            return leaves, state.steps
        try:
            for row in actions:
                if ended:
                    break  # the episode of the state went on here, so this is another one
                observation, reward, terminated, truncated, _ = self.step(
                    self._actions.decode(row[None])[0]
                )
                note_progress()
                self.episode_return += float(reward)
                ended = bool(terminated or truncated)
                leaves = self._layout.split(observation)
        except Exception as error:
            fault = raised(self.where, "step, while replaying an episode", error)
            fault.__cause__ = error
        if fault is not None:
            self.fail(fault, 0, progress=True)
            return self.reset(), state.steps
        arrived = not ended and all(
            np.array_equal(np.asarray(now, then.dtype), then)
            for now, then in zip(leaves, state.observation, strict=True)
        )
        if not arrived:
            return self.reset(), state.steps
        self._steps_before = state.steps
        return leaves, 0

    def close(self) -> None:
        """Closes the environment; `EnvironmentFault` when that raises."""
        try:
            self.env.close()
        except Exception as error:
            raise raised(self.where, "close()", error) from error
