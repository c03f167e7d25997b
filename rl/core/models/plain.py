"""Plain MLPs as arrays: networks that act, learn and are saved without torch.

`PlainNetwork` has the parameters and buffers of the torch module of its kind, under the same names
and in the same order; `build` makes that module, on the same memory. A network with images, memory,
noisy layers or an encoder of one's own has no such form.
"""

from __future__ import annotations

import copy
import functools
import importlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from gymnasium import spaces

from rl.core.data.action_range import ActionRange
from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.data.tree import Array, Tree
from rl.core.data.weights import ParameterTable, Weights
from rl.core.lazy import torch
from rl.core.models.actor import Actor, ActorFactory
from rl.core.models.initial import orthogonal, uniform
from rl.core.models.numpy_encoder import NumpyEncoder
from rl.core.models.numpy_mlp import NumpyActor, NumpyQActor, linear_layers
from rl.core.models.numpy_policy import (
    NumpyCategoricalActor,
    NumpyDeterministicActor,
    NumpySquashedActor,
)
from rl.core.models.spec import NetworkSpec, PolicySpec, QNetworkSpec
from rl.core.models.statistics import merge, new_statistics

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rl.core.models.modules import Module

__all__ = [
    "KINDS",
    "PlainNetwork",
    "become_views",
    "number_of",
    "plain_obstacles",
    "set_number",
]

STATISTICS = "encoder.normalizer."
HIDDEN_GAIN = math.sqrt(2)


@dataclass(frozen=True)
class _Layer:
    name: str
    inputs: int
    outputs: int
    gain: float | None
    """Of orthogonal weights; None: as torch's Linear begins."""


@dataclass(frozen=True)
class _Kind:
    module: str
    """Where the class of its torch module is."""
    spec: type[PolicySpec]
    layers: Callable[[Any, int, ActionLayout], Iterator[_Layer]]
    """Of a spec, the number of features and the actions, in the order of the module."""
    actor: Callable[..., Actor]
    actions: type[spaces.Space[Any]] | None = None
    """What it can act in; None: whatever `ActionLayout` knows."""
    numbers: tuple[str, ...] = ()
    """Names of buffers that are one number, 0 at first."""


def _chain(
    name: str, inputs: int, sizes: Sequence[int], gain: float | None = None
) -> Iterator[_Layer]:
    names = linear_layers(name, tuple(sizes))
    widths = itertools.pairwise((inputs, *sizes))
    for own, (before, after) in zip(names, widths, strict=True):
        yield _Layer(own, before, after, gain)


def _actor_critic(spec: NetworkSpec, inputs: int, actions: ActionLayout) -> Iterator[_Layer]:
    hidden, policy, value = (HIDDEN_GAIN, 0.01, 1.0) if spec.orthogonal_init else (None, None, None)
    torsos = ("policy_torso",) if spec.shared_torso else ("policy_torso", "value_torso")
    for name in torsos:
        yield from _chain(name, inputs, spec.hidden_sizes, hidden)
    width = (inputs, *spec.hidden_sizes)[-1]
    yield _Layer("policy_head", width, actions.num_parameters, policy)
    yield _Layer("value_head", width, 1, value)


def _q_network(spec: QNetworkSpec, inputs: int, actions: ActionLayout) -> Iterator[_Layer]:
    yield from _chain("torso", inputs, spec.torso_sizes)
    shared = (inputs, *spec.torso_sizes)[-1]
    width = (shared, *spec.stream_sizes)[-1]
    yield from _chain("advantage_stream", shared, spec.stream_sizes)
    yield _Layer("advantage_head", width, actions.num_parameters * spec.num_atoms, None)
    if spec.dueling:
        yield from _chain("value.0", shared, spec.stream_sizes)
        yield _Layer("value.1", width, spec.num_atoms, None)


def _policy(
    spec: PolicySpec, inputs: int, actions: ActionLayout, outputs: int = 1
) -> Iterator[_Layer]:
    yield from _chain("torso", inputs, spec.hidden_sizes)
    width = (inputs, *spec.hidden_sizes)[-1]
    yield _Layer("head", width, outputs * actions.num_parameters, None)


_squashed = functools.partial(_policy, outputs=2)
_POLICIES = "rl.core.models.policy_network"
KINDS: Mapping[str, _Kind] = {
    "actor_critic": _Kind(
        "rl.core.models.modules:ActorCritic", NetworkSpec, _actor_critic, NumpyActor
    ),
    "q_network": _Kind(
        "rl.core.models.q_network:QNetwork",
        QNetworkSpec,
        _q_network,
        NumpyQActor,
        numbers=("epsilon",),
    ),
    "squashed_policy": _Kind(
        f"{_POLICIES}:SquashedPolicy",
        PolicySpec,
        _squashed,
        NumpySquashedActor,
        spaces.Box,
        ("warming_up",),
    ),
    "deterministic_policy": _Kind(
        f"{_POLICIES}:DeterministicPolicy",
        PolicySpec,
        _policy,
        NumpyDeterministicActor,
        spaces.Box,
        ("warming_up", "exploration_noise"),
    ),
    "categorical_policy": _Kind(
        f"{_POLICIES}:CategoricalPolicy",
        PolicySpec,
        _policy,
        NumpyCategoricalActor,
        spaces.Discrete,
        ("warming_up",),
    ),
}
"""By the names that policy files give them."""


def plain_obstacles(spec: PolicySpec) -> Iterator[str]:
    """Yields why a network of this spec needs torch."""
    if spec.encoder is not None:
        yield "an encoder of your own"
    if ObservationLayout(spec.observation_space).has_images:
        yield "images"
    if getattr(spec, "memory", None) is not None:
        yield "memory"
    if getattr(spec, "noisy_sigma", 0):
        yield "noisy layers"


class PlainNetwork:
    """Parameters as one vector, buffers by name, and what a network can say of itself."""

    memory_size = 0
    parameter_noise = 0

    def __init__(
        self, kind: str, spec: PolicySpec, generator: np.random.Generator | None = None
    ) -> None:
        """Draws the weights a network begins with.

        Args:
            kind: A name in `KINDS`.
            spec: Of a network without `plain_obstacles`.
            generator: What the weights are drawn from; None: they stay 0, for others take their
                place.
        """
        assert not any(plain_obstacles(spec)), kind
        self.kind, self.spec = kind, spec
        self.observation_layout = ObservationLayout(spec.observation_space)
        self.action_layout = ActionLayout(spec.action_space)
        inputs = self.observation_layout.num_features
        layers = [*KINDS[kind].layers(spec, inputs, self.action_layout)]
        shapes: dict[str, tuple[int, ...]] = {}
        if kind == "actor_critic" and self.action_layout.num_gaussian:
            shapes["log_std"] = (self.action_layout.num_gaussian,)
        for layer in layers:
            shapes[f"{layer.name}.weight"] = (layer.outputs, layer.inputs)
            shapes[f"{layer.name}.bias"] = (layer.outputs,)
        self._table = ParameterTable(shapes)
        size = sum(math.prod(shape) for shape in shapes.values())
        self.vector: Array = np.zeros(size, np.float32)
        """All parameters, [P]; `parameters` are views of it. Change it in place only."""
        self.buffers: dict[str, Array] = {}
        """Part of the state, by name. Change them in place only."""
        if spec.normalize_observations and inputs:
            own = new_statistics(inputs).items()
            self.buffers |= {STATISTICS + name: array for name, array in own}
        for name in KINDS[kind].numbers:
            self.buffers[name] = np.zeros((), np.float32)
        self._constants = _constants(kind, spec)
        if generator is not None:
            self._draw(layers, generator)

    def _draw(self, layers: Sequence[_Layer], generator: np.random.Generator) -> None:
        parameters = self.parameters
        if isinstance(self.spec, NetworkSpec) and "log_std" in parameters:
            parameters["log_std"].fill(self.spec.log_std_init)
        for layer in layers:
            weight, bias = (parameters[f"{layer.name}.{part}"] for part in ("weight", "bias"))
            if layer.gain is None:
                weight[...] = uniform(generator, weight.shape, layer.inputs)
                bias[...] = uniform(generator, bias.shape, layer.inputs)
            else:
                weight[...] = orthogonal(generator, (layer.outputs, layer.inputs), layer.gain)

    @property
    def parameters(self) -> dict[str, Array]:
        """Every parameter by name, as views."""
        return self._table.views(self.vector)

    def parameter_table(self) -> ParameterTable:
        """Where each parameter lies in the vector."""
        return self._table

    def observe(self, observations: Tree) -> None:
        """Merges observations [N, *obs] into the statistics; there must be some."""
        features = NumpyEncoder(self.spec)(observations)  # which has no statistics: as they are
        own = {name: self.buffers[STATISTICS + name] for name in ("mean", "var", "count")}
        merge(**own, batch=features.astype(np.float64))

    def state_arrays(self) -> dict[str, Array]:
        """Parameters and buffers by name, not copied."""
        return self.parameters | self.buffers

    def load_state_arrays(self, state: Mapping[str, Array]) -> None:
        """Takes over what `state_arrays` gave. Raises `ValueError` when it does not fit."""
        own = self.state_arrays()
        if state.keys() != own.keys():
            raise ValueError(f"unknown or missing: {', '.join(sorted(state.keys() ^ own.keys()))}")
        for name, array in own.items():
            if state[name].shape != array.shape:
                raise ValueError(f"{name} is {state[name].shape} instead of {array.shape}")
            array[...] = state[name]

    def acting_weights(self, version: int) -> Weights:
        """A copy of what acting needs, under a number."""
        buffers = {name: array.copy() for name, array in self.all_buffers.items()}
        return Weights(version, self.vector.copy(), buffers)

    def set_weights(self, weights: Weights) -> None:
        """Takes over what `acting_weights` gave."""
        self.vector[...] = weights.parameters
        for name, array in self.buffers.items():
            array[...] = weights.buffers[name]

    @property
    def all_buffers(self) -> Mapping[str, Array]:
        """Buffers by name, with those that are no part of the state, for they follow from it."""
        return {**self.buffers, **self._constants}

    def frozen(self) -> Self:
        """A copy that later learning does not change."""
        return copy.deepcopy(self)

    def actor_factory(self) -> ActorFactory:
        """What a runner builds to act."""
        return functools.partial(KINDS[self.kind].actor, self.spec, self._table)

    def describe(self) -> dict[str, Any]:
        """JSON from which a file rebuilds the network."""
        return {"module": self.kind, **self.spec.to_json()}

    def build(self) -> Module:
        """The torch module, whose parameters and buffers live in the memory of these."""
        place, _, name = KINDS[self.kind].module.partition(":")
        with torch.random.fork_rng(devices=[]):  # what it draws is not used
            module: Module = getattr(importlib.import_module(place), name)(self.spec)
        become_views(list(module.parameters()), torch.from_numpy(self.vector))
        for path, array in self.buffers.items():
            owner, _, attribute = path.rpartition(".")
            setattr(module.get_submodule(owner), attribute, torch.from_numpy(array))
        return module


def _constants(kind: str, spec: PolicySpec) -> dict[str, Array]:
    """Buffers of the module that follow from its spec."""
    if isinstance(spec, QNetworkSpec):
        atoms = np.linspace(spec.v_min, spec.v_max, spec.num_atoms, dtype=np.float32)
        return {"support": atoms}
    if kind in ("squashed_policy", "deterministic_policy"):
        bounds = ActionRange.of(spec.action_space)
        return {f"bounds.{n}": getattr(bounds, n) for n in ("middle", "radius", "inverse")}
    return {}


def number_of(network: PlainNetwork | Module, name: str) -> float:
    """The value of a buffer that is one number, such as how much the network explores."""
    if isinstance(network, PlainNetwork):
        return float(network.buffers[name])
    return float(getattr(network, name))


def set_number(network: PlainNetwork | Module, name: str, value: float) -> None:
    """Changes a buffer that is one number, float32."""
    if isinstance(network, PlainNetwork):
        network.buffers[name].fill(value)
    else:
        getattr(network, name).fill_(value)


def become_views(parameters: Sequence[nn.Parameter], vector: Tensor) -> None:
    """Lets parameters live in a vector, one behind the other; their values become its."""
    offset = 0
    for parameter in parameters:
        part = slice(offset, offset + parameter.numel())
        parameter.data = vector[part].view_as(parameter)
        offset = part.stop
