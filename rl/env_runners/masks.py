"""Environments that tell in `info` which actions are allowed: the mask becomes observation."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rl.core.data.masks import with_mask
from rl.core.data.spaces import MASK, ActionLayout, ObservationLayout
from rl.errors import EnvironmentFault, UsageError

__all__ = ["InfoMask", "tells_mask"]

Environment = gymnasium.Env[Any, Any]


class InfoMask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Puts `info["action_mask"]` of every reset and step into the observation.

    A step that ends the episode may leave it out: nothing is chosen after it.
    """

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        self._choices = ActionLayout(env.action_space).num_parameters
        self._nested = isinstance(env.observation_space, spaces.Dict)
        self.observation_space = with_mask(env.observation_space, ActionLayout(env.action_space))

    def reset(self, **options: Any) -> Any:
        result: Any = self.env.reset(**options)
        if not isinstance(result, tuple) or len(result) != 2:
            return result  # who asked will say what is wrong
        observation, info = result
        return self._join(observation, info, "reset", over=False), info

    def step(self, action: Any) -> Any:
        result: Any = self.env.step(action)
        if not isinstance(result, tuple | list) or len(result) != 5:
            return result
        observation, reward, terminated, truncated, info = result
        joined = self._join(observation, info, "step", over=bool(terminated or truncated))
        return joined, reward, terminated, truncated, info

    def _join(self, observation: Any, info: Any, method: str, over: bool) -> Any:
        mask = info.get(MASK) if isinstance(info, dict) else None
        if mask is None and over:
            mask = np.zeros(self._choices, np.int8)
        if mask is None:
            raise EnvironmentFault(
                f"env {self.env}: {method} returned an info without {MASK!r}, which the first"
                " reset's had; give it each time"
            )
        parts = observation if self._nested and isinstance(observation, dict) else None
        return {**({"observation": observation} if parts is None else parts), MASK: mask}


def tells_mask(env: Environment) -> bool:
    """Resets an environment to see whether its `info` holds a mask that is not observed.

    Raises:
        UsageError: There is one, but not of these actions.
    """
    actions, observations = env.action_space, ObservationLayout(env.observation_space)
    if observations.mask is not None or not ActionLayout(actions).categorical:
        return False
    if hasattr(env.unwrapped, "ale"):
        return False  # a reset loads the game, and none has masks
    try:
        result: Any = env.reset(seed=0)
    except Exception:  # whoever samples meets it again, and says where
        return False
    info = result[1] if isinstance(result, tuple) and len(result) == 2 else None
    mask = info.get(MASK) if isinstance(info, dict) else None
    needed = (ActionLayout(actions).num_parameters,)
    if mask is not None and np.shape(mask) != needed:
        raise UsageError(
            f"env {env}: info[{MASK!r}] has the shape {np.shape(mask)}, but the actions {actions}"
            f" need {needed}, an entry for each choice"
        )
    return mask is not None
