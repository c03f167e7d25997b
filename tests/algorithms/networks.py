"""Encoders that tests name by import path."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn


class Wide(nn.Module):
    """One layer over the numbers of a Box."""

    def __init__(self, observation_space: spaces.Box, width: int = 8) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(width)

    def forward(self, observations: Tensor) -> Tensor:
        return torch.tanh(self.layer(observations.flatten(1)))


class Parts(nn.Module):
    """A Dict observation: places embedded, numbers through a layer."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__()
        place: Any = observation_space["place"]
        self.start = int(place.start)
        self.places = nn.Embedding(int(place.n), 4)
        self.numbers = nn.LazyLinear(4)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        where = self.places(observations["place"] - self.start)
        return torch.cat((where, self.numbers(observations["numbers"].flatten(1))), 1)


class Random(Wide):
    """Breaks a rule: draws in `forward`."""

    def forward(self, observations: Tensor) -> Tensor:
        features = super().forward(observations)
        return features + torch.rand_like(features)
