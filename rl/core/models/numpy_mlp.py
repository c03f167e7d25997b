"""Policies in numpy: cheaper for small batches, and without importing torch.

They compute what `ActorCritic.act` and `QNetwork.act` compute, to 1e-5, for every space without
images; tests compare them on random networks (measured in `benchmarks/acting.py`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from rl.core.data.masks import best_allowed, forbid, nth_allowed
from rl.core.data.spaces import ActionLayout, Head, ObservationLayout
from rl.core.data.tree import Array, Tree
from rl.core.data.weights import ParameterTable, Weights
from rl.core.kernels import sampling
from rl.core.kernels.library import kernels
from rl.core.kernels.mlp import COMPILED_ACTIVATIONS, CompiledLayers
from rl.core.models.numpy_encoder import NumpyEncoder
from rl.core.models.spec import Activation, NetworkSpec, PolicySpec, QNetworkSpec

__all__ = [
    "NumpyActor",
    "NumpyLayers",
    "NumpyNetwork",
    "NumpyQActor",
    "linear_layers",
    "sample_categories",
]

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def _relu(x: Array) -> Array:
    np.maximum(x, 0, out=x)
    return x


def _tanh(x: Array) -> Array:
    np.tanh(x, out=x)
    return x


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _silu(x: Array) -> Array:
    y: Array = x * np.exp(-np.logaddexp(0, -x))  # x sigmoid(x); exp(-x) would overflow
    return y


def _gelu(x: Array) -> Array:
    error = np.array([math.erf(value) for value in (x * math.sqrt(0.5)).ravel().tolist()], x.dtype)
    y: Array = 0.5 * x * (1 + error.reshape(x.shape))
    return y


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": _tanh,
    "relu": _relu,
    "elu": _elu,
    "silu": _silu,
    "gelu": _gelu,
}


class NumpyLayers:
    """Linear layers with an activation behind each, and a linear head where one is named.

    With noise they are `NoisyLinear`: y = mu x + b + f_out * (sigma (f_in * x) + sigma_b).
    """

    def __init__(self, layers: list[str], head: str | None, activation: Activation) -> None:
        """Names the parameters: hidden layers, first to last, and the last layer."""
        self._names = layers if head is None else [*layers, head]
        self._activated = len(layers)
        self._activation = ACTIVATIONS[activation]
        self._compiles = kernels() is not None and activation in COMPILED_ACTIVATIONS
        self._compiled: CompiledLayers | None = None
        self._kinds = [activation] * len(layers) + [""] * (head is not None)
        self._layers: list[tuple[Array, Array]] = []
        self._noisy: list[tuple[Array, Array]] = []

    @property
    def row_by_row(self) -> bool:
        """Whether one of several rows gives the same bits whatever the others are."""
        return self._compiles or not self._names

    def noise_size(self, table: ParameterTable) -> int:
        """Standard normals the layers take, were they noisy: one an input and one an output."""
        return sum(sum(table.shapes[f"{name}.weight"]) for name in self._names)

    def set_weights(self, views: Mapping[str, Array]) -> None:
        """Keeps views, not copies: whoever publishes weights does not change them."""
        self._layers = [(views[f"{name}.weight"].T, views[f"{name}.bias"]) for name in self._names]
        self._noisy = [
            (views[f"{name}.weight_sigma"].T, views[f"{name}.bias_sigma"])
            for name in self._names
            if f"{name}.weight_sigma" in views
        ]
        if self._compiles and self._names:
            layers = [(views[f"{name}.weight"], views[f"{name}.bias"]) for name in self._names]
            self._compiled = CompiledLayers(layers, self._kinds)

    def changed(self) -> None:
        """What the views show has other values from now on."""
        if self._compiled is not None:
            self._compiled.changed()

    def __call__(self, hidden: Array, noise: Array | None = None) -> Array:
        """[B, inputs] -> [B, outputs].

        Args:
            hidden: Inputs.
            noise: f of the normals, [B, noise_size] and perhaps more; None is no noise.
        """
        if noise is not None:
            return self._with_noise(hidden, noise)
        if self._compiled is not None:
            return self._compiled(hidden)
        for weight, bias in self._layers[: self._activated]:
            hidden = np.dot(hidden, weight)  # a microsecond less than @ for few rows
            hidden += bias
            hidden = self._activation(hidden)
        for weight, bias in self._layers[self._activated :]:  # the head, if there is one
            hidden = np.dot(hidden, weight)
            hidden += bias
        return hidden

    def _with_noise(self, hidden: Array, noise: Array) -> Array:
        used = 0
        for index, (weight, bias) in enumerate(self._layers):
            sigma, bias_sigma = self._noisy[index]
            middle, end = used + sigma.shape[0], used + sum(sigma.shape)
            spread = (hidden * noise[:, used:middle]) @ sigma
            spread += bias_sigma
            outputs = hidden @ weight
            outputs += bias
            outputs += noise[:, middle:end] * spread
            hidden = self._activation(outputs) if index < self._activated else outputs
            used = end
        return hidden


class NumpyNetwork:
    """Encoder, linear layers with an activation behind each, and a linear head."""

    def __init__(
        self,
        spec: PolicySpec,
        table: ParameterTable,
        layers: list[str],
        head: str,
    ) -> None:
        """Names the parameters.

        Args:
            spec: Of the network.
            table: Where parameters lie.
            layers: Names of the hidden layers, first to last.
            head: Name of the last layer.
        """
        self._table = table
        self.encode = NumpyEncoder(spec)
        self.decide = NumpyLayers(layers, head, spec.activation)
        self.row_by_row = self.decide.row_by_row
        # A copy of its own: with new weights every few steps, that is cheaper than new views.
        self._parameters: Array | None = None
        self._views: dict[str, Array] = {}

    def set_weights(self, weights: Weights) -> dict[str, Array]:
        """Acts with these from now on; returns all parameters by name, as views."""
        self.encode.set_weights(weights)
        if self._parameters is None:
            self._parameters = weights.parameters.copy()
            self._views = self._table.views(self._parameters)
            self.decide.set_weights(self._views)
        else:
            np.copyto(self._parameters, weights.parameters)
            self.decide.changed()
        return self._views

    def __call__(self, observations: Tree) -> Array:
        """What the head gives, [B, outputs]."""
        return self.decide(self.encode(observations))


def linear_layers(name: str, sizes: tuple[int, ...]) -> list[str]:
    """Names of the layers that `mlp` makes under `name`."""
    # Activations stand between the linear layers, hence the even indices.
    return [f"{name}.{2 * index}" for index in range(len(sizes))]


class Weighted(Protocol):
    """A part of a network that looks its parameters up by name."""

    def set_weights(self, views: Mapping[str, Array]) -> None: ...

    def changed(self) -> None: ...


class NumpyQActor:
    """Acts as a `QNetwork` of this spec would."""

    def __init__(self, spec: QNetworkSpec, table: ParameterTable) -> None:
        layers = functools.partial(NumpyLayers, activation=spec.activation)
        self._table = table
        self._observations = ObservationLayout(spec.observation_space)
        self._encoder = NumpyEncoder(spec)
        noisy = spec.noisy_sigma > 0
        torso = linear_layers("torso", spec.torso_sizes)
        stream = linear_layers("advantage_stream", spec.stream_sizes)
        valued = spec.dueling and spec.num_atoms > 1
        if not noisy and not valued:  # one chain, in one call
            torso, stream = [], [*torso, *stream]
        self._torso = layers(torso, None)
        self._advantages = layers(stream, "advantage_head")
        # Without atoms, value and mean advantage are the same for all actions: which is best shows
        # without them. In a distribution they shift logits, and so each mean by another amount.
        self._value = (
            layers(linear_layers("value.0", spec.stream_sizes), "value.1") if valued else None
        )
        layered = [self._torso, self._advantages, *([self._value] if self._value else [])]
        self._parts: list[Weighted] = [*layered]
        sizes = [part.noise_size(table) if noisy else 0 for part in layered]
        self._noise_ends = np.cumsum(sizes)
        self.parameter_noise = sum(sizes)
        self._atoms = spec.num_atoms
        self.row_by_row = not noisy and spec.num_atoms == 1 and self._advantages.row_by_row
        self._support = np.linspace(spec.v_min, spec.v_max, spec.num_atoms, dtype=np.float32)
        self._epsilon = 0.0
        # A copy of its own: with new weights every few steps, that is cheaper than new views.
        self._parameters: Array | None = None

    def set_weights(self, weights: Weights) -> None:
        self._encoder.set_weights(weights)
        if self._parameters is None:
            self._parameters = weights.parameters.copy()
            views = self._table.views(self._parameters)
            for part in self._parts:
                part.set_weights(views)
        else:
            np.copyto(self._parameters, weights.parameters)
            for part in self._parts:
                part.changed()
        self._epsilon = float(weights.buffers["epsilon"])

    def _scores(self, features: Array, noise: Array | None) -> Array:
        """What ranks actions as their values do, [B, A]; noise is on the parameters."""
        parts: Sequence[Array | None] = (None, None, None)
        if noise is not None:
            scaled = np.sign(noise) * np.sqrt(np.abs(noise))
            parts = np.split(scaled, self._noise_ends, 1)
        hidden = self._torso(features, parts[0])
        scores = self._advantages(hidden, parts[1])
        if self._atoms == 1:
            return scores
        logits = scores.reshape(scores.shape[0], -1, self._atoms)
        if self._value is not None:
            logits = logits + (
                self._value(hidden, parts[2])[:, None] - logits.mean(1, keepdims=True)
            )
        chances = np.exp(logits - logits.max(2, keepdims=True))
        values: Array = chances @ self._support / chances.sum(2)
        return values

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        """See `Actor.act`; there are no extras."""
        return self.choose(self._encoder(observations), observations, noise), {}

    def choose(self, features: Array, observations: Tree, noise: Array | None) -> Array:
        """`act`, given what the layers see [B, F]."""
        on_parameters = None if noise is None or not self.parameter_noise else noise[:, 1:]
        scores = self._scores(features, on_parameters)
        mask = self._observations.mask_of(observations)
        by = None if noise is None else noise[:, 0]
        plain = scores.dtype == np.float32 and (by is None or by.dtype == np.float32)
        if mask is None and plain and kernels() is not None:
            return sampling.choose_largest(scores, by, self._epsilon)
        best = best_allowed(scores, mask)
        if noise is None or self._epsilon == 0:
            return best
        share = noise[:, 0] / np.float32(self._epsilon)
        explores = share < 1
        if not explores.any():
            return best
        if mask is None:
            last = scores.shape[1] - 1
            anything = np.minimum((share * np.float32(last + 1)).astype(np.int64), last)
        else:
            anything = nth_allowed(mask, share)
        chosen: Array = np.where(explores, anything, best)
        return chosen


class NumpyActor:
    """Acts as an `ActorCritic` of this spec would."""

    def __init__(self, spec: NetworkSpec, table: ParameterTable) -> None:
        layers = linear_layers("policy_torso", spec.hidden_sizes)
        self._parameters = NumpyNetwork(spec, table, layers, "policy_head")  # logits and means
        self.row_by_row = self._parameters.row_by_row
        self._actions = ActionLayout(spec.action_space)
        self._observations = ObservationLayout(spec.observation_space)
        self._views: dict[str, Array] = {}

    def set_weights(self, weights: Weights) -> None:
        self._views = self._parameters.set_weights(weights)

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        """See `Actor.act`; the extra is `log_prob` [B]."""
        return self.choose(self._parameters(observations), observations, noise)

    def choose(
        self, parameters: Array, observations: Tree, noise: Array | None
    ) -> tuple[Array, dict[str, Array]]:
        """`act`, given what the head gave, [B, outputs]."""
        parameters = forbid(parameters, self._observations.mask_of(observations))
        if not self._actions.shape:  # the common case, one category, without the general loop
            if noise is None:
                return parameters.argmax(1), {}
            actions, log_prob = sample_categories(parameters, noise[:, 0])
            return actions, {"log_prob": log_prob}
        actions = np.empty((parameters.shape[0], self._actions.num_columns), self._actions.dtype)
        total = np.zeros(parameters.shape[0], np.float32)
        used = 0
        for head in self._actions.heads:
            own = parameters[:, head.parameters]
            if head.kind == "gaussian":
                size = head.columns.stop - head.columns.start
                log_std = self._views["log_std"][used : used + size]
                used += size
                total += _gaussian(head, own, log_std, noise, actions)
            elif head.kind == "bernoulli":
                total += _bernoulli(head, own, noise, actions)
            elif noise is None:
                actions[:, head.columns.start] = own.argmax(1)
            else:
                column = head.columns.start
                actions[:, column], log_prob = sample_categories(own, noise[:, column])
                total += log_prob
        return actions, {} if noise is None else {"log_prob": total}


def sample_categories(logits: Array, noise: Array) -> tuple[Array, Array]:
    """One category a row of logits [B, n] by noise [B]; with its log-probability [B]."""
    if kernels() is not None and logits.dtype == noise.dtype == np.float32:
        return sampling.sample_categories(logits, noise)
    logits = logits - np.maximum.reduce(logits, 1, keepdims=True)
    cumulative = np.add.accumulate(np.exp(logits), 1)
    total = cumulative[:, -1]
    below = cumulative <= (noise * total)[:, None]
    actions = np.minimum(np.add.reduce(below, 1), logits.shape[1] - 1)
    return actions, logits[np.arange(logits.shape[0]), actions] - np.log(total)


def _gaussian(
    head: Head, mean: Array, log_std: Array, noise: Array | None, actions: Array
) -> Array:
    """Writes the columns of the head into `actions`; returns log-probabilities [B]."""
    if noise is None:
        actions[:, head.columns] = mean
        return np.zeros(mean.shape[0], np.float32)
    own = noise[:, head.columns]
    actions[:, head.columns] = mean + np.exp(log_std) * own
    log_prob: Array = (-0.5 * own * own - log_std - np.float32(LOG_SQRT_2PI)).sum(1)
    return log_prob


def _bernoulli(head: Head, logits: Array, noise: Array | None, actions: Array) -> Array:
    """Writes the columns of the head into `actions`; returns log-probabilities [B]."""
    if noise is None:
        actions[:, head.columns] = logits > 0
        return np.zeros(logits.shape[0], np.float32)
    ones = noise[:, head.columns] < np.exp(-np.logaddexp(0, -logits))
    actions[:, head.columns] = ones
    # log sigmoid(x) = -log(1 + exp(-x)), of x for a one and of -x for a zero
    log_prob: Array = -np.logaddexp(0, np.where(ones, -logits, logits)).sum(1)
    return log_prob
