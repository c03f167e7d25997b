"""Running mean and variance as module buffers, so that they travel with the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rl.core.models.statistics import CLIP, EPSILON, merge

__all__ = ["CLIP", "EPSILON", "Normalizer"]


class Normalizer(nn.Module):
    """Shifts and scales features [..., features] to mean 0 and variance 1, then clips.

    Statistics are float64 and change in `update` only, so evaluation is frozen by itself.
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
        """Merges a batch [N, features] into the statistics, see `merge`."""
        merge(self.mean, self.var, self.count, batch.to(torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        scale = torch.rsqrt(self.var + EPSILON)
        shifted = (features - self.mean.to(features.dtype)) * scale.to(features.dtype)
        return shifted.clamp(-CLIP, CLIP)
