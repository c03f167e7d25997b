"""A numbered snapshot of what acting needs, as numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

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

    @cached_property
    def _places(self) -> list[tuple[str, int, int, tuple[int, ...]]]:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes.values()]).tolist()
        starts = [0, *ends[:-1]]
        return [
            (name, start, end, shape)
            for (name, shape), start, end in zip(self.shapes.items(), starts, ends, strict=False)
        ]

    def views(self, parameters: Array) -> dict[str, Array]:
        """Cuts the vector into arrays that share its memory."""
        return {
            name: parameters[start:end].reshape(shape) for name, start, end, shape in self._places
        }
