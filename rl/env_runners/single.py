"""One environment that is a vector environment of one: for evaluation, inspection and recording."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from rl.env_runners.vectors import info_of

__all__ = ["SingleEnvironment"]


class SingleEnvironment(gymnasium.Env[Any, Any]):
    """Plays a vector environment of one as a single environment, the same pixel for pixel.

    Its user resets it after every end, so that how the vector environment itself would go on does
    not matter.
    """

    def __init__(self, vector: Any) -> None:
        """Takes over a vector environment of one, as `check_vector` finds it sound."""
        self.vector = vector
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space
        self.metadata = dict(getattr(vector, "metadata", None) or {})
        self.render_mode = getattr(vector, "render_mode", None)
        self._batch = gymnasium.vector.utils.batch_space(self.observation_space, 1)

    def __str__(self) -> str:
        return f"<one of {type(self.vector).__name__}>"

    def _first(self, batch: Any) -> Any:
        return next(iter(iterate(self._batch, batch)))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            seed %= 1 << 30  # as those of vector environments in training
        observations, infos = self.vector.reset(seed=seed, options=options)
        return self._first(observations), info_of(infos, 0)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        room: Any = create_empty_array(self.action_space, 1)
        batch = concatenate(self.action_space, [action], room)
        observations, rewards, terminated, truncated, infos = self.vector.step(batch)
        info = info_of(infos, 0)
        observation = info.pop("final_obs", None)
        if observation is None:
            observation = self._first(observations)
        info |= info.pop("final_info", {})
        return observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> Any:
        frames = self.vector.render()
        return frames[0] if frames is not None else None

    def close(self) -> None:
        self.vector.close()
