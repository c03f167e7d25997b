"""Acting with any torch module: the general case, where no numpy form exists."""

from __future__ import annotations

import torch
from torch import Tensor

from rl.core.data.tree import Array, Tree, tree_map
from rl.core.data.weights import Weights
from rl.core.models.modules import Module
from rl.core.models.threads import torch_threads

__all__ = ["TorchActor"]


class TorchActor:
    """Acts with a copy of a module of its own, on the CPU, with one thread."""

    def __init__(self, module: Module) -> None:
        self._module = module.frozen()
        self.parameter_noise = module.parameter_noise
        self.memory_size = module.memory_size

    def set_weights(self, weights: Weights) -> None:
        self._module.set_weights(weights)

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        with torch.inference_mode(), torch_threads(1):
            inputs = tree_map(_as_tensor, observations)
            actions, extras = self._module.act(inputs, None if noise is None else _as_tensor(noise))
        return actions.numpy(), {name: values.numpy() for name, values in extras.items()}

    def act_with_memory(
        self, observations: Tree, noise: Array | None, memory: Array
    ) -> tuple[Array, dict[str, Array], Array]:
        """See `RecurrentActor.act_with_memory`."""
        with torch.inference_mode(), torch_threads(1):
            inputs = tree_map(_as_tensor, observations)
            actions, extras, after = self._module.act_with_memory(
                inputs, None if noise is None else _as_tensor(noise), _as_tensor(memory)
            )
        found = {name: values.numpy() for name, values in extras.items()}
        return actions.numpy(), found, after.numpy()


def _as_tensor(array: Array) -> Tensor:
    return torch.tensor(array)  # a copy: the runner writes on into its arrays
