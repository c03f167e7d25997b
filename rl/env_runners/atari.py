"""Atari as it is always preprocessed, and the game's own score kept from before it."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np

__all__ = ["RawScore", "preprocess_atari"]

Environment = gymnasium.Env[Any, Any]


class RawScore(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Innermost wrapper: tells the sum of unchanged rewards, `info["episode"]["r"]`, at the end."""

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        self._score = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._score = 0.0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._score += float(reward)
        if terminated or truncated:
            info["episode"] = {"r": self._score}
        return observation, reward, terminated, truncated, info


def preprocess_atari(env: Environment) -> Environment:
    """The usual preprocessing (Mnih et al. 2015, Machado et al. 2018).

    Up to 30 no-ops at the start, 4 frames a step with a maximum over the last two, 84x84 grey, the
    last 4 stacked, the sign of the reward; observations [4, 84, 84] uint8.
    """
    env = gymnasium.wrappers.AtariPreprocessing(env, noop_max=30, frame_skip=4, screen_size=84)
    env = gymnasium.wrappers.TransformReward(env, lambda reward: float(np.sign(float(reward))))
    return gymnasium.wrappers.FrameStackObservation(env, 4)
