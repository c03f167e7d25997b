"""Environments that tell in `info` which actions are allowed: the mask becomes observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from rl.core.data.masks import with_mask
from rl.core.data.spaces import MASK, ActionLayout, ObservationLayout
from rl.core.data.tree import Array
from rl.env_runners.atari import AtariVector
from rl.errors import EnvironmentFault, UsageError

__all__ = ["InfoMask", "VectorInfoMask", "tells_mask"]

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


class VectorInfoMask(VectorWrapper[Any, Any, Any]):
    """The same for a vector environment: `infos["action_mask"]` [B, choices].

    Environments whose episode ended, or which are not there to be stepped, may leave theirs out.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        layout = ActionLayout(env.single_action_space)
        self._nested = isinstance(env.single_observation_space, spaces.Dict)
        self._shape = (env.num_envs, layout.num_parameters)
        self.single_observation_space = with_mask(env.single_observation_space, layout)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._over = np.zeros(env.num_envs, np.bool_)

    def reset(self, **options: Any) -> Any:
        result: Any = self.env.reset(**options)
        if not isinstance(result, tuple) or len(result) != 2:
            return result  # who asked will say what is wrong
        reset_mask = (options.get("options") or {}).get("reset_mask")
        if reset_mask is None:
            self._over[:] = False
            return self._join(*result, "reset"), result[1]
        self._over = ~reset_mask
        joined = self._join(*result, "reset")
        self._over[:] = False
        return joined, result[1]

    def step(self, actions: Any) -> Any:
        result: Any = self.env.step(actions)
        if not isinstance(result, tuple | list) or len(result) != 5:
            return result
        observations, rewards, terminated, truncated, infos = result
        over = np.logical_or(terminated, truncated)
        if over.any() and "final_obs" in infos:
            infos = {**infos, "final_obs": self._finals(infos["final_obs"], over)}
            self._over[:] = False  # what is observed is the first of the next episode
        else:
            self._over = over
        return self._join(observations, infos, "step"), rewards, terminated, truncated, infos

    def _beside(self, observation: Any, mask: Any) -> dict[str, Any]:
        parts = observation if self._nested else {"observation": observation}
        return {**parts, MASK: mask}

    def _finals(self, finals: Any, over: Array) -> Array:
        """One observation for each environment whose episode ended, with an empty mask."""
        joined = np.full(len(over), None, object)
        for b in np.flatnonzero(over).tolist():
            batch = isinstance(finals, dict)
            final = {key: part[b] for key, part in finals.items()} if batch else finals[b]
            joined[b] = self._beside(final, np.zeros(self._shape[1], np.int8))
        return joined

    def _join(self, observations: Any, infos: Any, method: str) -> dict[str, Any]:
        masks = infos.get(MASK) if isinstance(infos, Mapping) else None
        told = infos.get(f"_{MASK}") if masks is not None else np.zeros_like(self._over)
        lacking = np.zeros_like(self._over) if told is None else ~(told | self._over)
        if lacking.any():
            raise EnvironmentFault(
                f"env {self.env}: {method} returned infos without {MASK!r} for environment"
                f" {int(np.argmax(lacking))}, where the first reset's had one; give it each time"
            )
        if masks is None:
            masks = np.zeros(self._shape, np.int8)
        return self._beside(observations, masks)


def tells_mask(env: Environment) -> bool:
    """Resets an environment to see whether its `info` holds a mask that is not observed.

    Raises:
        UsageError: There is one, but not of these actions.
    """
    actions, observations = env.action_space, ObservationLayout(env.observation_space)
    if observations.mask is not None or not ActionLayout(actions).categorical:
        return False
    if isinstance(getattr(env.unwrapped, "vector", None), AtariVector):
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
