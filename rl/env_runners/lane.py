"""Lane: one environment of a runner, its episodes, and where it can be taken up again."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np

from rl.core.data.rollout import Episode
from rl.core.data.spaces import MASK, ActionLayout, ObservationLayout
from rl.core.runtime import note_progress
from rl.core.seeding import episode_seed
from rl.env_runners.faults import check_reset, raised, score_of, success_of
from rl.env_runners.runner_state import LaneState
from rl.errors import EnvironmentFault

__all__ = ["Lane"]


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
    ) -> None:
        """Takes an environment over; it is not reset yet.

        Args:
            env: The environment.
            name: What messages call it.
            place: (root seed, runner, index in the runner).
            layout: Of its observations.
            actions: Of its actions.
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
        self._seeded = False
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

    def reset(self) -> list[Any]:
        """Begins the next episode; returns the leaves of its first observation."""
        needed = self._seed_each or not self._seeded
        seed = episode_seed(*self._place, self._episode) if needed else None
        self._seeded = True
        call = f"reset(seed={seed})"
        try:
            result = self.env.reset(seed=seed)
        except Exception as error:
            raise raised(self.where, call, error) from error
        leaves = check_reset(result, self._layout, self.where, call)
        self._check_unseen_mask(result[1], call)
        self._episode += 1
        self._steps_before = 0
        self.episode_return = 0.0
        return leaves

    def finish(self, t: int, length: int, info: dict[str, Any], began: float) -> Episode:
        """The record of the episode that ended in row t of the current fragment."""
        self._check_unseen_mask(info, "step")
        seconds = time.perf_counter() - began
        return Episode(t, score_of(info, self.episode_return), length, seconds, success_of(info))

    def _check_unseen_mask(self, info: Any, call: str) -> None:
        """Raises where a mask is told only now: runs begun without one would ignore it."""
        if self._layout.mask is None and self._actions.categorical and MASK in info:
            raise EnvironmentFault(
                f"{self.where}: {call} returned an info with {MASK!r}, which the first reset of the"
                " run had not; give it with every reset and step, or never"
            )

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
            raise raised(self.where, "step, while replaying an episode", error) from error
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
