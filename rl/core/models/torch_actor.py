"""Acting with any torch module: the general case, where no numpy form exists."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor

from rl.core.data.tree import Array, Tree, tree_map
from rl.core.data.weights import Weights
from rl.core.models.actor import ActorFactory
from rl.core.models.modules import Module
from rl.core.models.threads import torch_threads

__all__ = ["TorchActor", "actor_factory", "load_weights"]


class TorchActor:
    """Acts with a copy of a module of its own, on the CPU, with one thread."""

    def __init__(self, module: Module) -> None:
        self._module = copy.deepcopy(module).cpu().eval().requires_grad_(False)
        self.parameter_noise = module.parameter_noise
        self.memory_size = module.memory_size

    def set_weights(self, weights: Weights) -> None:
        load_weights(self._module, weights)

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


@torch.no_grad()
def load_weights(module: Module, weights: Weights) -> None:
    """Puts published weights into a module of the same kind."""
    parameters = dict(module.named_parameters())
    for name, values in module.parameter_table().views(weights.parameters).items():
        parameters[name].copy_(torch.tensor(values))
    buffers = dict(module.named_buffers())
    for name, values in weights.buffers.items():
        buffers[name].copy_(torch.tensor(values))


def _as_tensor(array: Array) -> Tensor:
    return torch.tensor(array)  # a copy: the runner writes on into its arrays


def actor_factory(module: Module) -> ActorFactory:
    """What a runner builds to act as the module does: numpy where that is possible, else torch."""
    return module.actor_factory() or functools.partial(TorchActor, module)
