"""Batches of windows: what a Q network with memory learns from a replay buffer.

Shapes: M windows, m transitions in all of them, F features, S numbers remembered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rl.core.data.batch import to_tensor
from rl.core.data.tree import Array, tree_map
from rl.core.data.windows import Unrolled, Windows
from rl.core.models.memory import Packed
from rl.core.models.modules import TensorTree
from rl.core.models.q_network import QNetwork

__all__ = ["WindowBatch"]

LARGEST = 0.9
"""Weight of a window's largest error in its priority, the rest is its mean error's (R2D2)."""


class WindowBatch:
    """The transitions of some windows, on a learner's device; a `ReplayBatch` with a past."""

    def __init__(self, windows: Windows, weights: Array | None, device: torch.device) -> None:
        """Takes windows.

        Args:
            windows: M of them.
            weights: Importance of each transition, [m]; None where draws are even.
            device: Where to.
        """
        self._windows, self._device = windows, device
        self._states = self._tensor(windows.states)
        self._successors = self._tensor(windows.successors)
        self._seen: TensorTree = self._tensors(windows.seen)
        self.actions = self._tensor(windows.actions)  # [m, *act]
        self.returns = self._tensor(windows.returns)  # [m]
        self.discounts = self._tensor(windows.discounts)  # [m]
        self.weights = None if weights is None else self._tensor(weights)  # [m]

    def _tensor(self, array: Array) -> Tensor:
        return to_tensor(array, self._device)

    def _tensors(self, unrolled: Unrolled) -> Any:
        return tree_map(self._tensor, unrolled.observations)

    @property
    def next_observations(self) -> TensorTree:
        """Where the steps of each transition led, [m, *obs]."""
        successors: TensorTree = tree_map(lambda leaf: leaf[self._successors], self._seen)
        return successors

    def features(
        self, network: QNetwork, *, states: bool = True, successors: bool = True
    ) -> tuple[Tensor, Tensor]:
        """What a network makes of states, and of successors without a graph; [m, F] each.

        It begins with what was remembered, goes through what leads up to a window without a
        gradient, and then through the window. States and successors are seen in one go.
        """
        with torch.set_grad_enabled(states and torch.is_grad_enabled()):
            packed = self._packed(self._windows.seen, self._remembered(network))
            found, _ = network.remember(network.encoder(self._seen), packed)
            return found[self._states], found.detach()[self._successors]

    @torch.no_grad()
    def _remembered(self, network: QNetwork) -> Tensor:
        """What this network would remember where each window begins, [M, S]."""
        memory, before = self._tensor(self._windows.memory), self._windows.before
        if before is None:
            return memory
        packed = self._packed(before, memory)
        _, after = network.remember(network.encoder(self._tensors(before)), packed)
        return memory.index_copy(0, self._tensor(before.windows), after)

    def _packed(self, unrolled: Unrolled, memory: Tensor) -> Packed:
        batch_sizes = torch.from_numpy(unrolled.batch_sizes)
        return Packed(batch_sizes, memory[self._tensor(unrolled.windows)])

    def per_draw(self, errors: Tensor) -> Tensor:
        """Errors [M] of windows from those of their transitions [m]: R2D2's priority."""
        owners, sizes = self._tensor(self._windows.owners), errors.abs()
        nothing = sizes.new_zeros(len(self._windows.memory))
        count = nothing.index_add(0, owners, torch.ones_like(sizes))
        mean = nothing.index_add(0, owners, sizes) / count
        return LARGEST * nothing.scatter_reduce(0, owners, sizes, "amax") + (1 - LARGEST) * mean
