"""Target networks: what a network was a while ago, and follows slowly or now and then."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from rl.core.data.tree import Array
from rl.core.kernels.follow import follow
from rl.core.lazy import torch
from rl.core.learning.flat import FlatParameters, frozen_copy

if TYPE_CHECKING:
    from torch import Tensor, nn

    ModuleT = TypeVar("ModuleT", bound=nn.Module)
else:
    ModuleT = TypeVar("ModuleT")

__all__ = ["TargetNetwork"]


class TargetNetwork(Generic[ModuleT]):
    """A vector of parameters that follows those of a network; a torch module of it on demand."""

    def __init__(self, flat: FlatParameters, module: Callable[[], ModuleT]) -> None:
        """Begins where the network stands.

        Args:
            flat: Parameters of the network, [P].
            module: Gives the network as torch has it, whose parameters are views of `flat.vector`.
        """
        self._flat, self._of = flat, module
        if flat.on_host:
            self.array: Array = flat.array.copy()
            """The parameters, [P] float32. On the CPU only. Change it in place only."""
        else:
            self.vector = flat.vector.clone()
            self.module = frozen_copy(module(), self.vector)  # not while a graph is recorded

    @cached_property
    def vector(self) -> Tensor:
        """The parameters, [P], on the device; on the CPU they share the memory of `array`."""
        return torch.from_numpy(self.array)

    @cached_property
    def module(self) -> ModuleT:
        """The network with these parameters; it wants no gradients."""
        return frozen_copy(self._of(), self.vector)

    @property
    def state(self) -> Array | Tensor:
        """What a checkpoint holds of it, to be changed in place."""
        return self.array if self._flat.on_host else self.vector

    def follow(self, share: float, by_hand: bool) -> None:
        """Moves a share of the way to where the network stands now.

        Args:
            share: In [0, 1]; with 1 it becomes the same.
            by_hand: Whether gradients are; then torch is not asked.
        """
        if not by_hand:
            self.vector.lerp_(self._flat.vector, share)
        elif share == 1:
            self.array[...] = self._flat.array
        elif self._flat.compiled:
            follow(self.array, self._flat.array, share)
        else:
            self.array += np.float32(share) * (self._flat.array - self.array)
