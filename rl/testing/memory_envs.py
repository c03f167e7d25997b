"""Environments that cannot be solved without remembering."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rl.core.data.tree import Array

__all__ = ["TMaze", "cartpole_without_velocities"]

FORWARD, LEFT, RIGHT = range(3)


class TMaze(gymnasium.Env[Array, Any]):
    """A corridor whose first step alone shows which way to turn at its end (Bakker 2001).

    Observes [sign, corridor, junction]: the sign is -1 or 1 at first and 0 from then on. Turning in
    the corridor leads nowhere and costs 0.1. At the junction the right turn gives 1, the wrong one
    -1, and both end the episode; `info["is_success"]` says which it was. Without memory no policy
    is right more often than half the time.
    """

    def __init__(self, length: int = 6) -> None:
        """Makes a corridor of so many steps; after four times as many an episode is truncated."""
        self.observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.action_space: spaces.Space[Any] = spaces.Discrete(3)
        self.length = length

    def _observe(self, sign: int = 0) -> Array:
        there = self.place == self.length
        return np.array([sign, not there, there], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.steps = 0
        self.sign = int(self.np_random.integers(2)) * 2 - 1
        return self._observe(self.sign), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.place == self.length and action != FORWARD:
            right = (action == LEFT) == (self.sign < 0)
            return self._observe(), 1.0 if right else -1.0, True, False, {"is_success": right}
        if action == FORWARD:
            self.place = min(self.place + 1, self.length)
        late = self.steps == 4 * self.length
        info = {"is_success": False} if late else {}
        return self._observe(), 0.0 if action == FORWARD else -0.1, False, late, info


def cartpole_without_velocities() -> gymnasium.Env[Any, Any]:
    """CartPole-v1 that shows where cart and pole are, and not how they move: [2]."""
    env = gymnasium.make("CartPole-v1", disable_env_checker=True)
    high = np.array([4.8, 0.42], np.float32)
    seen = spaces.Box(-high, high, dtype=np.float32)
    return gymnasium.wrappers.TransformObservation(env, lambda row: row[[0, 2]], seen)
