"""The policies of SAC and TD3 in numpy: a runner acts without importing torch.

They compute what `rl.core.models.policy_network` does, to 1e-5; tests compare the two.
"""

from __future__ import annotations

import math

import numpy as np

from rl.core.data.action_range import ActionRange
from rl.core.data.masks import forbid
from rl.core.data.spaces import ObservationLayout
from rl.core.data.tree import Array, Tree
from rl.core.data.weights import ParameterTable, Weights
from rl.core.models.numpy_mlp import NumpyNetwork, linear_layers, sample_categories
from rl.core.models.spec import LOG_STD_BOUNDS, PolicySpec

__all__ = ["NumpyCategoricalActor", "NumpyDeterministicActor", "NumpySquashedActor"]


def _network(spec: PolicySpec, table: ParameterTable) -> NumpyNetwork:
    return NumpyNetwork(spec, table, linear_layers("torso", spec.hidden_sizes), "head")


def _evenly(noise: Array) -> Array:
    """Standard normal noise as numbers spread evenly over (-1, 1): 2 Phi(x) - 1."""
    spread = [math.erf(value) for value in (noise * math.sqrt(0.5)).ravel().tolist()]
    return np.array(spread, np.float32).reshape(noise.shape)


class NumpySquashedActor:
    """Acts as a `SquashedPolicy` of this spec would."""

    def __init__(self, spec: PolicySpec, table: ParameterTable) -> None:
        self._outputs = _network(spec, table)
        self.row_by_row = self._outputs.row_by_row
        self._bounds = ActionRange.of(spec.action_space)
        self._warming_up = False

    def set_weights(self, weights: Weights) -> None:
        self._outputs.set_weights(weights)
        self._warming_up = bool(weights.buffers["warming_up"] > 0)

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        """See `Actor.act`; there are no extras."""
        if noise is not None and self._warming_up:
            return self._bounds.to_env(_evenly(noise)), {}
        outputs = self._outputs(observations)
        size = outputs.shape[1] // 2
        before = outputs[:, :size]
        if noise is not None:
            before = before + np.exp(outputs[:, size:].clip(*LOG_STD_BOUNDS)) * noise
        return self._bounds.to_env(np.tanh(before)), {}


class NumpyDeterministicActor:
    """Acts as a `DeterministicPolicy` of this spec would."""

    def __init__(self, spec: PolicySpec, table: ParameterTable) -> None:
        self._outputs = _network(spec, table)
        self.row_by_row = self._outputs.row_by_row
        self._bounds = ActionRange.of(spec.action_space)
        self._warming_up = False
        self._deviation = np.float32(0)

    def set_weights(self, weights: Weights) -> None:
        self._outputs.set_weights(weights)
        self._warming_up = bool(weights.buffers["warming_up"] > 0)
        self._deviation = np.float32(weights.buffers["exploration_noise"])

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        """See `Actor.act`; there are no extras."""
        if noise is not None and self._warming_up:
            return self._bounds.to_env(_evenly(noise)), {}
        actions = np.tanh(self._outputs(observations))
        if noise is not None:
            actions = (actions + self._deviation * noise).clip(-1, 1)
        return self._bounds.to_env(actions), {}


class NumpyCategoricalActor:
    """Acts as a `CategoricalPolicy` of this spec would."""

    def __init__(self, spec: PolicySpec, table: ParameterTable) -> None:
        self._logits = _network(spec, table)
        self.row_by_row = self._logits.row_by_row
        self._observations = ObservationLayout(spec.observation_space)
        self._warming_up = False

    def set_weights(self, weights: Weights) -> None:
        self._logits.set_weights(weights)
        self._warming_up = bool(weights.buffers["warming_up"] > 0)

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        """See `Actor.act`; there are no extras."""
        logits = self._logits(observations)
        if self._warming_up and noise is not None:
            logits = np.zeros_like(logits)
        logits = forbid(logits, self._observations.mask_of(observations))
        if noise is None:
            return logits.argmax(1), {}
        return sample_categories(logits, noise[:, 0])[0], {}
