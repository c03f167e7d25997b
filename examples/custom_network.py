"""A network of your own: any `torch.nn.Module` from observations to features is an encoder.

    python examples/custom_network.py

or, for whatever algorithm, with the import path of the class:

    train --algo sac --env Pendulum-v1 --encoder examples.custom_network:Residual
"""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

import rl
from rl.testing import check_module


class Residual(nn.Module):
    """A wide layer and two residual blocks; the algorithm puts its hidden layers and heads on."""

    def __init__(self, observation_space: gymnasium.spaces.Box, width: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(observation_space.shape[0], width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU()) for _ in range(2)
        )

    def forward(self, observations: Tensor) -> Tensor:
        """Rows [N, *shape] to features [N, width]."""
        features = torch.relu(self.first(observations))
        for block in self.blocks:
            features = features + block(features)
        return features


def main(total_steps: int = 30_000, **settings: Any) -> float:
    """Trains, and returns the mean return of the greedy policy; 500 is the best there is."""
    space = gymnasium.make("CartPole-v1").observation_space
    check_module(lambda: Residual(space), observation_space=space)  # what a run would check, too
    config = rl.PPOConfig(
        encoder=Residual,
        encoder_kwargs={"width": 32},
        hidden_sizes=(),  # nothing between the features and the heads
        total_steps=total_steps,
        rollout_length=128,
        **settings,
    )
    with config.build() as ppo:
        ppo.learn()
        return ppo.evaluate(num_episodes=20).mean


if __name__ == "__main__":
    print(f"mean return {main():.0f}, best possible 500")
