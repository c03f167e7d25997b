"""A numbered snapshot of what acting needs, as numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rl.core.data.tree import Array

__all__ = ["ParameterTable", "Weights"]


@dataclass(frozen=True)
class Weights:
    """All parameters of a module as one vector, and its buffers by name."""

    version: int
    """Counts the learner's publications."""
    parameters: Array  # [P] float32
    buffers: Mapping[str, Array]


@dataclass(frozen=True)
class ParameterTable:
    """Where each parameter lies in the flat vector."""

    shapes: Mapping[str, tuple[int, ...]]
    """By name, in the order of the vector."""

    def views(self, parameters: Array) -> dict[str, Array]:
        """Cuts the vector into arrays that share its memory."""
        views, offset = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            views[name] = parameters[offset : offset + size].reshape(shape)
            offset += size
        return views
