"""What a runner needs in order to act: weights in, observations in, actions out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from rl.core.data.spaces import ActionLayout
from rl.core.data.tree import Array, Tree
from rl.core.data.weights import Weights

__all__ = ["Actor", "ActorFactory", "draw_noise"]


class Actor(Protocol):
    """A policy as a runner sees it. It owns no randomness: the noise comes in."""

    def set_weights(self, weights: Weights) -> None:
        """Acts with these from now on."""
        ...

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        """Chooses an action for each of B environments.

        Args:
            observations: [B, *obs].
            noise: [B, columns] float32 from `draw_noise`; None asks for the greedy action.

        Returns:
            Actions [B, *act] and extras, each [B, ...], valid until the next call.
        """
        ...


ActorFactory = Callable[[], Actor]


def draw_noise(layout: ActionLayout, generator: np.random.Generator, *leading: int) -> Array:
    """Noise for actions, [*leading, columns] float32.

    Standard normal for continuous columns, uniform in [0, 1) for categories and bits. The order of
    the draws is part of the platform's reproducibility: change it and every run changes.
    """
    noise = generator.random((*leading, layout.num_columns), np.float32)
    for head in layout.heads:
        if head.kind == "gaussian":
            size = head.columns.stop - head.columns.start
            noise[..., head.columns] = generator.standard_normal((*leading, size), np.float32)
    return noise
