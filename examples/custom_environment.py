"""An environment of your own: any callable that makes a `gymnasium.Env` can be trained in.

    python examples/custom_environment.py

A corridor: the goal lies at one end, and the observation says at which.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

import rl

Observation = NDArray[np.float32]


class Corridor(gymnasium.Env[Observation, np.int64]):
    """Walk to the goal; every step costs 0.1, the goal pays 1."""

    def __init__(self, half_length: int = 4) -> None:
        self.half_length = half_length
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts in the middle."""
        super().reset(seed=seed)
        self.position, self.steps = 0, 0
        self.goal = self.half_length * int(self.np_random.choice([-1, 1]))
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Moves left (0) or right (1)."""
        self.position += 2 * int(action) - 1
        self.steps += 1
        at_goal = self.position == self.goal
        # Reaching the goal ends the task; running out of time does not, and is told apart.
        return self._observe(), 1.0 if at_goal else -0.1, at_goal, self.steps >= 50, {}

    def _observe(self) -> Observation:
        return np.array([self.position, self.goal], np.float32) / self.half_length / 2


def main(total_steps: int = 30_000) -> float:
    """Trains, and returns the mean return of the greedy policy; 0.7 is the best there is."""
    config = rl.PPOConfig(
        env=Corridor,
        env_kwargs={"half_length": 4},
        total_steps=total_steps,
        rollout_length=64,
    ).with_env_runners(envs_per_runner=8)
    with config.build() as ppo:
        ppo.learn()
        return ppo.evaluate(num_episodes=20).mean


if __name__ == "__main__":
    print(f"mean return {main():.2f}, best possible 0.70")
