"""What a runner needs in order to act: weights in, observations in, actions out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rl.core.data.spaces import ActionLayout
from rl.core.data.tree import Array, Tree
from rl.core.data.weights import Weights
from rl.core.lazy import LazyModule

if TYPE_CHECKING:
    from rl.core.models import torch_actor
    from rl.core.models.encoders import TensorTree
    from rl.core.models.modules import Module
    from rl.core.models.plain import PlainNetwork
else:
    torch_actor = LazyModule("rl.core.models.torch_actor")

__all__ = [
    "Actor",
    "ActorFactory",
    "FragmentNoise",
    "KeptRows",
    "RecurrentActor",
    "actor_factory",
    "acts_row_by_row",
    "draw_noise",
    "kept_rows",
    "memory_size_of",
    "parameter_noise_of",
]


class Actor(Protocol):
    """A policy as a runner sees it. It owns no randomness: the noise comes in.

    One that puts noise on its parameters says in an attribute `parameter_noise` how many standard
    normals it wants for each row, behind the noise of the action itself. One that computes each of
    several rows to the same bits whatever the others are says so in `row_by_row`.
    """

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


class RecurrentActor(Actor, Protocol):
    """An actor with memory. It keeps none itself: what is remembered comes in and goes out."""

    memory_size: int
    """S, numbers remembered for each environment; 0 for a network without memory."""

    def act_with_memory(
        self, observations: Tree, noise: Array | None, memory: Array
    ) -> tuple[Array, dict[str, Array], Array]:
        """`act`, given what is remembered.

        Args:
            observations: [B, *obs].
            noise: As with `act`.
            memory: [B, S] float32; zeros at the first step of an episode.

        Returns:
            Actions, extras, and what is remembered at the next step [B, S].
        """
        ...


class KeptRows(Protocol):
    """The observations of one fragment, where the actor leaves them on its device."""

    def keep(self, t: int) -> None:
        """Row t is what the actor acted on last; where it acts in a row again, that counts."""
        ...

    def sealed(self, observations: Tree) -> TensorTree:
        """All rows as tensors [T+1, B, *obs]; `observations` are the same on the host."""
        ...


ActorFactory = Callable[[], Actor]


def actor_factory(network: Module | PlainNetwork) -> ActorFactory:
    """What a runner builds to act as a network does: numpy where that is possible, else torch."""
    light = network.actor_factory()
    if light is not None:
        return light
    module: Any = network
    # A copy on the CPU: a worker that was sent memory of a GPU would need a GPU.
    return functools.partial(torch_actor.TorchActor, module.frozen())


def memory_size_of(actor: Actor) -> int:
    """Numbers that an actor remembers for each environment; most remember nothing."""
    return int(getattr(actor, "memory_size", 0))


def parameter_noise_of(actor: Actor) -> int:
    """Standard normals that an actor wants for each row; most want none."""
    return int(getattr(actor, "parameter_noise", 0))


def kept_rows(actor: Actor) -> KeptRows | None:
    """For a fragment that begins, where an actor leaves what it acts on on its device."""
    begin: Callable[[], KeptRows | None] | None = getattr(actor, "device_rows", None)
    return None if begin is None else begin()


def acts_row_by_row(actor: Actor) -> bool:
    """Whether what an actor does in one of several rows never depends on the others, to the bit.

    A matrix product of a library may take another way for another number of rows.
    """
    return bool(getattr(actor, "row_by_row", False)) and not memory_size_of(actor)


def draw_noise(
    layout: ActionLayout, generator: np.random.Generator, *leading: int, parameter_noise: int = 0
) -> Array:
    """Noise for actions, [*leading, columns + parameter_noise] float32.

    Standard normal for continuous columns, uniform in [0, 1) for categories and bits; behind them
    standard normals for parameters. The order of the draws is part of the platform's
    reproducibility: change it and every run changes.
    """
    noise = generator.random((*leading, layout.num_columns), np.float32)
    for head in layout.heads:
        if head.kind == "gaussian":
            size = head.columns.stop - head.columns.start
            noise[..., head.columns] = generator.standard_normal((*leading, size), np.float32)
    return _with_normals(noise, generator, parameter_noise)


def _with_normals(noise: Array, generator: np.random.Generator, count: int) -> Array:
    if not count:
        return noise
    normals = generator.standard_normal((*noise.shape[:-1], count), np.float32)
    return np.concatenate((noise, normals), -1)


class FragmentNoise:
    """Noise of T steps of B environments, taken row after row.

    That of actions is drawn at once; that of parameters with its row, for there is much of it.
    """

    def __init__(
        self,
        layout: ActionLayout,
        generator: np.random.Generator,
        length: int,
        width: int,
        actor: Actor,
    ) -> None:
        """Draws the noise of actions.

        Args:
            layout: Of the actions.
            generator: Of the fragment; nobody else draws from it.
            length: T.
            width: B.
            actor: Who takes it.
        """
        self.length, self.width = length, width
        self._actions = draw_noise(layout, generator, length, width)
        self._generator = generator
        self._parameters = parameter_noise_of(actor)

    def row(self, t: int) -> Array:
        """Of step t, [B, columns]; each is taken once and in order."""
        return _with_normals(self._actions[t], self._generator, self._parameters)
