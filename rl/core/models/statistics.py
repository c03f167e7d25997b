"""Running mean and variance, of observations and of returns, without torch.

Statistics are float64 and live in arrays that are only ever changed in place: the buffers of a
torch module may share their memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rl.core.data.tree import Array

__all__ = ["CLIP", "EPSILON", "RewardScaler", "merge", "new_statistics"]

CLIP = 10.0
"""Normalised values are clipped to ±CLIP."""
EPSILON = 1e-8
"""Added to the variance under the root."""


def new_statistics(num_features: int) -> dict[str, Array]:
    """`mean`, `var` [features] and `count` [] of no data yet."""
    return {
        "mean": np.zeros(num_features),
        "var": np.ones(num_features),
        "count": np.zeros(()),
    }


def merge(mean: Any, var: Any, count: Any, batch: Any) -> None:
    """Merges a batch [N, features] of float64 into statistics, arrays or tensors, in place.

    By the parallel rule of Chan, Golub and LeVeque (1979): the moments of all data, whatever the
    split.
    """
    size = batch.shape[0]
    if size == 0:
        return
    own = batch.mean(0)
    spread = batch - own
    total = count + size
    delta = own - mean
    squares = var * count + (spread * spread).sum(0) + delta * delta * count * size / total
    mean += delta * size / total
    var[...] = squares / total
    count[...] = total


class RewardScaler:
    """Divides rewards by the standard deviation of the discounted return so far; never shifts them.

    The return of each environment goes on from fragment to fragment and starts anew where an
    episode ended (Engstrom et al. 2020, arXiv:2005.12729).
    """

    def __init__(self, num_environments: int, gamma: float) -> None:
        self.gamma = gamma
        self.statistics = new_statistics(1)
        self.returns = np.zeros(num_environments)

    def update(self, rewards: Array, done: Array, valid: Array | None = None) -> None:
        """Merges the rollout's returns into the statistics.

        Args:
            rewards: [T, B].
            done: [T, B] bool, where an episode ended.
            valid: [T, B] bool; rows that are no steps count for nothing.
        """
        running = np.empty(rewards.shape)
        carry = self.returns
        for t in range(rewards.shape[0]):
            running[t] = carry * self.gamma + rewards[t]
            after = running[t] * ~done[t]
            carry = after if valid is None else np.where(valid[t], after, carry)
        self.returns[...] = carry
        counted = running.reshape(-1, 1) if valid is None else running[valid].reshape(-1, 1)
        merge(**self.statistics, batch=counted)

    def scale(self, rewards: Array) -> Array:
        """Rewards of any shape, scaled by the statistics as they are."""
        scale = (1 / np.sqrt(self.statistics["var"] + EPSILON)).astype(rewards.dtype)
        scaled: Array = (rewards * scale).clip(-CLIP, CLIP)
        return scaled

    def state_dict(self) -> Mapping[str, Array]:
        """All of it by name, not copied."""
        own = {f"statistics.{name}": array for name, array in self.statistics.items()}
        return {"returns": self.returns, **own}
