"""Policies in numpy: cheaper for small batches, and without importing torch.

They compute what `ActorCritic.act` and `QNetwork.act` compute, to 1e-5, for every space without
images; tests compare them on random networks (measured in `benchmarks/acting.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rl.core.data.spaces import ActionLayout, Head, Leaf, ObservationLayout
from rl.core.data.tree import Array, Tree
from rl.core.data.weights import ParameterTable, Weights
from rl.core.models.spec import NetworkSpec, QNetworkSpec

__all__ = ["NumpyActor", "NumpyNetwork", "NumpyQActor"]

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
NORMALIZED_CLIP = 10.0
NORMALIZED_EPSILON = 1e-8
"""As in `rl.core.models.normalizer`, which imports torch."""


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


class NumpyNetwork:
    """Encoder, linear layers with an activation behind each, and a linear head."""

    def __init__(
        self, spec: NetworkSpec | QNetworkSpec, table: ParameterTable, layers: list[str], head: str
    ) -> None:
        """Names the parameters.

        Args:
            spec: Of the network.
            table: Where parameters lie.
            layers: Names of the hidden layers, first to last.
            head: Name of the last layer.
        """
        self._spec = spec
        self._table = table
        self._names = layers, head
        self._observations = ObservationLayout(spec.observation_space)
        self._activation = ACTIVATIONS[spec.activation]
        self._plain = not self._observations.nested and not self._observations.leaves[0].sizes
        self._layers: list[tuple[Array, Array]] = []
        self._head: tuple[Array, Array]
        self._shift: Array | None = None
        self._scale: Array | None = None

    def set_weights(self, weights: Weights) -> dict[str, Array]:
        """Takes views of the vector, not a copy: whoever publishes weights does not change them.

        Returns:
            All parameters by name.
        """
        views = self._table.views(weights.parameters)
        layers, head = self._names
        self._layers = [(views[f"{name}.weight"].T, views[f"{name}.bias"]) for name in layers]
        self._head = (views[f"{head}.weight"].T, views[f"{head}.bias"])
        if self._spec.normalize_observations and self._observations.num_features:
            var = weights.buffers["encoder.normalizer.var"]
            self._shift = weights.buffers["encoder.normalizer.mean"].astype(np.float32)
            self._scale = (1 / np.sqrt(var + NORMALIZED_EPSILON)).astype(np.float32)
        return views

    def _encode(self, observations: Tree) -> Array:
        if self._plain and not isinstance(observations, dict):
            features = observations.reshape(observations.shape[0], -1)
            if features.dtype != np.float32:
                features = features.astype(np.float32)
        else:
            leaves = observations if isinstance(observations, dict) else {"": observations}
            features = np.concatenate(
                [_encode_leaf(leaf, leaves[leaf.path]) for leaf in self._observations.leaves],
                axis=1,
            )
        if self._shift is None:
            return features
        normalized: Array = (features - self._shift) * self._scale
        return normalized.clip(-NORMALIZED_CLIP, NORMALIZED_CLIP)

    def __call__(self, observations: Tree) -> Array:
        """What the head gives, [B, outputs]."""
        hidden = self._encode(observations)
        for weight, bias in self._layers:
            hidden = hidden @ weight
            hidden += bias
            hidden = self._activation(hidden)
        weight, bias = self._head
        outputs: Array = hidden @ weight
        outputs += bias
        return outputs


def _linear_layers(name: str, sizes: tuple[int, ...]) -> list[str]:
    # Activations stand between the linear layers, hence the even indices.
    return [f"{name}.{2 * index}" for index in range(len(sizes))]


class NumpyQActor:
    """Acts as a `QNetwork` of this spec would."""

    def __init__(self, spec: QNetworkSpec, table: ParameterTable) -> None:
        layers = _linear_layers("torso", spec.torso_sizes)
        layers += _linear_layers("advantage_stream", spec.stream_sizes)
        # Value and mean advantage are the same for all actions: which is best shows without them.
        self._scores = NumpyNetwork(spec, table, layers, "advantage_head")
        self._epsilon = 0.0

    def set_weights(self, weights: Weights) -> None:
        self._scores.set_weights(weights)
        self._epsilon = float(weights.buffers["epsilon"])

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        """See `Actor.act`; there are no extras."""
        scores = self._scores(observations)
        best = scores.argmax(1)
        if noise is None or self._epsilon == 0:
            return best, {}
        share = noise[:, 0] / np.float32(self._epsilon)  # below 1: explores
        last = scores.shape[1] - 1
        anything = np.minimum((share * np.float32(last + 1)).astype(np.int64), last)
        return np.where(share < 1, anything, best), {}


class NumpyActor:
    """Acts as an `ActorCritic` of this spec would."""

    def __init__(self, spec: NetworkSpec, table: ParameterTable) -> None:
        layers = _linear_layers("policy_torso", spec.hidden_sizes)
        self._parameters = NumpyNetwork(spec, table, layers, "policy_head")  # logits and means
        self._actions = ActionLayout(spec.action_space)
        self._log_std: Array | None = None
        self._rows = np.arange(1)

    def set_weights(self, weights: Weights) -> None:
        self._log_std = self._parameters.set_weights(weights).get("log_std")

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        """See `Actor.act`; the extra is `log_prob` [B]."""
        parameters = self._parameters(observations)
        if not self._actions.shape:  # the common case, one category, without the general loop
            if noise is None:
                return parameters.argmax(1), {}
            actions, log_prob = self._sample_categorical(parameters, noise[:, 0])
            return actions, {"log_prob": log_prob}
        actions = np.empty((parameters.shape[0], self._actions.num_columns), self._actions.dtype)
        total = np.zeros(parameters.shape[0], np.float32)
        used = 0
        for head in self._actions.heads:
            own = parameters[:, head.parameters]
            if head.kind == "gaussian":
                assert self._log_std is not None
                size = head.columns.stop - head.columns.start
                log_std = self._log_std[used : used + size]
                used += size
                total += _gaussian(head, own, log_std, noise, actions)
            elif head.kind == "bernoulli":
                total += _bernoulli(head, own, noise, actions)
            elif noise is None:
                actions[:, head.columns.start] = own.argmax(1)
            else:
                column = head.columns.start
                actions[:, column], log_prob = self._sample_categorical(own, noise[:, column])
                total += log_prob
        return actions, {} if noise is None else {"log_prob": total}

    def _sample_categorical(self, logits: Array, noise: Array) -> tuple[Array, Array]:
        if self._rows.shape[0] != logits.shape[0]:
            self._rows = np.arange(logits.shape[0])
        logits = logits - logits.max(1, keepdims=True)
        cumulative = np.exp(logits).cumsum(1)
        total = cumulative[:, -1]
        below = cumulative <= (noise * total)[:, None]
        actions = np.minimum(below.sum(1), logits.shape[1] - 1)
        return actions, logits[self._rows, actions] - np.log(total)


def _encode_leaf(leaf: Leaf, values: Array) -> Array:
    if not leaf.sizes:
        return values.reshape(values.shape[0], -1).astype(np.float32)
    rows = values.reshape(values.shape[0], -1)
    hot = np.zeros((rows.shape[0], leaf.num_features), np.float32)
    offset = 0
    for column, (start, size) in enumerate(zip(leaf.starts, leaf.sizes, strict=True)):
        hot[np.arange(rows.shape[0]), offset + rows[:, column] - start] = 1
        offset += size
    return hot


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
