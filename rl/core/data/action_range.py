"""Continuous actions in units of their own: from -1 to 1, whatever the environment's bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from rl.core.data.tree import Array

__all__ = ["ActionRange"]


@dataclass(frozen=True)
class ActionRange:
    """Where the bounds of a Box lie; d is its size, flattened."""

    middle: Array  # [d] float32
    radius: Array  # [d] float32, half the distance between the bounds

    @staticmethod
    def of(space: spaces.Space[Any]) -> ActionRange:
        """The range of a Box with finite bounds."""
        assert isinstance(space, spaces.Box)
        low, high = (bound.astype(np.float64).ravel() for bound in (space.low, space.high))
        return ActionRange(
            ((low + high) / 2).astype(np.float32), ((high - low) / 2).astype(np.float32)
        )

    @property
    def inverse(self) -> Array:
        """1 / radius, [d] float32; 0 where the bounds are equal and there is nothing to choose."""
        chosen = np.where(self.radius > 0, self.radius, 1)
        return np.where(self.radius > 0, 1 / chosen, 0).astype(np.float32)

    def to_env(self, actions: Array) -> Array:
        """Actions [..., d] in [-1, 1] as the environment takes them."""
        scaled: Array = self.middle + self.radius * actions
        return scaled
