"""Acting on a GPU: what goes there, what comes back, and what may stay."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl.core.data.batch import to_tensor
from rl.core.data.tree import Array, Tree, tree_map
from rl.core.models.actor import ActorFactory
from rl.core.models.encoders import TensorTree
from rl.core.models.modules import Module
from rl.core.models.plain import PlainNetwork
from rl.core.models.threads import torch_threads
from rl.core.models.torch_actor import TorchActor

__all__ = ["DeviceActor", "DeviceRows", "device_actor_factory", "together_on_host"]


def device_actor_factory(
    network: Module | PlainNetwork, device: torch.device, keeps: bool
) -> ActorFactory:
    """What a runner builds to act as a network does, on a device; also where numpy could.

    Args:
        network: Copied now, on the CPU: what travels to a worker is no memory of a GPU.
        device: Where to act.
        keeps: Whether the observations of a rollout stay there.
    """
    module = network.build() if isinstance(network, PlainNetwork) else network
    return functools.partial(DeviceActor, module.frozen(), device, keeps)


class DeviceActor(TorchActor):
    """Acts with a copy of a module of its own, on a device.

    Observations go there in their own kind, images as bytes; actions come back with all that is
    told beside them in one copy, for which the GPU is waited for. It does not act for several
    runners at once: products of a GPU may take another way for another number of rows.
    """

    def __init__(self, module: Module, device: torch.device, keeps: bool = False) -> None:
        """Copies the module.

        Args:
            module: What acts.
            device: Where to; on the CPU it does what `TorchActor` does, to the bit.
            keeps: Whether the observations it has acted on can be had from `device_rows`.
        """
        super().__init__(module)
        self._module.to(device)
        self._device, self._keeps = device, keeps
        self.seen: TensorTree | None = None
        """What it acted on last, [B, *obs], where it keeps that."""

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        inputs, given = self._take(observations), self._noise(noise)
        with torch.inference_mode(), torch_threads(1):
            actions, extras = self._module.act(inputs, given)
            found, *told = together_on_host([actions, *extras.values()])
        return found, dict(zip(extras, told, strict=True))

    def act_with_memory(
        self, observations: Tree, noise: Array | None, memory: Array
    ) -> tuple[Array, dict[str, Array], Array]:
        """See `RecurrentActor.act_with_memory`."""
        inputs, given, before = self._take(observations), self._noise(noise), self._tensor(memory)
        with torch.inference_mode(), torch_threads(1):
            actions, extras, after = self._module.act_with_memory(inputs, given, before)
            found, then, *told = together_on_host([actions, after, *extras.values()])
        return found, dict(zip(extras, told, strict=True)), then

    def device_rows(self) -> DeviceRows | None:
        """Takes up the rows of a fragment that begins; None where they do not stay."""
        return DeviceRows(self) if self._keeps else None

    def inputs(self, observations: Tree) -> TensorTree:
        """Observations [..., *obs] on the device, as tensors that can be learnt from."""
        return tree_map(self._tensor, observations)

    def _take(self, observations: Tree) -> TensorTree:
        inputs = self.inputs(observations)
        if self._keeps:
            self.seen = inputs
        return inputs

    def _noise(self, noise: Array | None) -> Tensor | None:
        return None if noise is None else self._tensor(noise)

    def _tensor(self, array: Array) -> Tensor:
        # A copy on the CPU, too: the runner writes on into its arrays.
        return torch.tensor(array) if self._device.type == "cpu" else to_tensor(array, self._device)


class DeviceRows:
    """The observations of one fragment as its actor had them on its device."""

    def __init__(self, actor: DeviceActor) -> None:
        self._actor = actor
        self._rows: list[Any] = []  # each a tree [B, *obs]

    def keep(self, t: int) -> None:
        """Row t is what the actor acted on last; where it acts in a row again, that counts."""
        self._rows[t:] = [self._actor.seen]

    def sealed(self, observations: Tree) -> TensorTree:
        """All rows, [T+1, B, *obs]: those kept, and the last one, on which nobody has acted.

        Args:
            observations: The same on the host.
        """
        last: Any = self._actor.inputs(tree_map(lambda leaf: leaf[-1], observations))
        rows = [*self._rows, last]
        if isinstance(last, dict):
            return {path: torch.stack([row[path] for row in rows]) for path in last}
        return torch.stack(rows)


def together_on_host(tensors: Sequence[Tensor]) -> list[Array]:
    """Tensors of one device as arrays, brought to the host in one copy, bit by bit."""
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in tensors]
    joined = torch.cat(flat).numpy(force=True)
    ends = np.cumsum([len(part) for part in flat]).tolist()
    parts = np.split(joined, ends[:-1])
    return [
        part.view(str(tensor.dtype).removeprefix("torch.")).reshape(tensor.shape)
        for part, tensor in zip(parts, tensors, strict=True)
    ]
