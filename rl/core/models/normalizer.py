"""Running mean and variance as module buffers, so that they travel with the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["CLIP", "EPSILON", "Normalizer", "RewardScaler"]

CLIP = 10.0
"""Normalised values are clipped to ±CLIP."""
EPSILON = 1e-8
"""Added to the variance under the root."""


class Normalizer(nn.Module):
    """Shifts and scales features [..., features] to mean 0 and variance 1, then clips.

    Statistics are float64 and change in `update` only, so evaluation is frozen by itself. Batches
    are merged by the parallel rule of Chan, Golub and LeVeque (1979): the moments of all data,
    whatever the split.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features, dtype=torch.float64))
        self.register_buffer("var", torch.ones(num_features, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, batch: Tensor) -> None:
        """Merges a batch [N, features] into the statistics."""
        batch = batch.to(torch.float64)
        size = batch.shape[0]
        if size == 0:
            return
        mean, var = batch.mean(0), batch.var(0, unbiased=False)
        total = self.count + size
        delta = mean - self.mean
        squares = self.var * self.count + var * size + delta.square() * self.count * size / total
        self.mean += delta * size / total
        self.var.copy_(squares / total)
        self.count.copy_(total)

    def forward(self, features: Tensor) -> Tensor:
        scale = torch.rsqrt(self.var + EPSILON)
        shifted = (features - self.mean.to(features.dtype)) * scale.to(features.dtype)
        return shifted.clamp(-CLIP, CLIP)


class RewardScaler(nn.Module):
    """Divides rewards by the standard deviation of the discounted return so far; never shifts them.

    The return of each environment goes on from fragment to fragment and starts anew where an
    episode ended (Engstrom et al. 2020, arXiv:2005.12729).
    """

    returns: Tensor

    def __init__(self, num_environments: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.statistics = Normalizer(1)
        self.register_buffer("returns", torch.zeros(num_environments, dtype=torch.float64))

    @torch.no_grad()
    def update(self, rewards: Tensor, done: Tensor, valid: Tensor | None = None) -> None:
        """Merges the rollout's returns into the statistics.

        Args:
            rewards: [T, B].
            done: [T, B] bool, where an episode ended.
            valid: [T, B] bool; rows that are no steps count for nothing.
        """
        running = torch.empty(rewards.shape, dtype=torch.float64, device=rewards.device)
        carry = self.returns
        for t in range(rewards.shape[0]):
            running[t] = carry * self.gamma + rewards[t]
            after = running[t] * ~done[t]
            carry = after if valid is None else torch.where(valid[t], after, carry)
        self.returns.copy_(carry)
        counted = running.reshape(-1, 1) if valid is None else running[valid].reshape(-1, 1)
        self.statistics.update(counted)

    def scale(self, rewards: Tensor) -> Tensor:
        """Rewards of any shape, scaled by the statistics as they are."""
        scale = torch.rsqrt(self.statistics.var + EPSILON).to(rewards.dtype)
        return (rewards * scale).clamp(-CLIP, CLIP)

    def forward(self, rewards: Tensor, done: Tensor, valid: Tensor | None = None) -> Tensor:
        """Merges the rollout's returns into the statistics, then scales its rewards [T, B] by them.

        The arguments are those of `update`.
        """
        self.update(rewards, done, valid)
        return self.scale(rewards)
