"""The gradient of DQN's loss by hand: the learning engines `numpy` and `compiled`.

`DQNLearner.loss` is the definition; tests hold this to its gradient, to 1e-5, for every setting.
Shapes: M transitions of a batch, A actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.configs.dqn import DQNConfig
from rl.core.data.masks import best_allowed
from rl.core.data.replay import Transitions
from rl.core.data.tree import Array
from rl.core.data.weights import Weights
from rl.core.kernels.dqn import CompiledDQNLoss
from rl.core.learning.analytic_mlp import MLP, linear_names, make_mlp
from rl.core.learning.engines import network_obstacles
from rl.core.learning.flat import FlatParameters
from rl.core.models.numpy_encoder import NumpyEncoder
from rl.core.models.plain import PlainNetwork
from rl.core.models.spec import QNetworkSpec

if TYPE_CHECKING:
    from rl.core.models.modules import Module

__all__ = ["AnalyticDQN", "dqn_obstacles"]

ONE = np.float32(1)


def dqn_obstacles(config: DQNConfig, network: PlainNetwork | Module) -> Iterator[str]:
    """Yields what of a run has no form here."""
    yield from network_obstacles(network)
    if config.memory is not None:
        yield f"memory ({config.memory})"
    if config.distributional:
        yield "distributions of returns (distributional)"
    if config.noisy:
        yield "noisy layers (noisy)"


class AnalyticDQN:
    """Huber regression of Q on one-step or n-step targets."""

    def __init__(
        self,
        config: DQNConfig,
        network: PlainNetwork,
        flat: FlatParameters,
        target: Array,
        engine: str,
    ) -> None:
        """Takes views of a learner's vectors; it computes with whatever stands there.

        Args:
            config: Settings of the run.
            network: Whose vector is that of `flat`.
            flat: Its `gradient_array` is written.
            target: Parameters of the target network, [P].
            engine: Who passes through the networks, `numpy` or `compiled`.
        """
        table = network.parameter_table()
        spec: Any = network.spec  # a QNetworkSpec
        parameters, gradients = table.views(flat.array), table.views(flat.gradient_array)
        self._network = AnalyticQNetwork(engine, spec, parameters, gradients)
        # Of its own, for its arrays must not take the place of those that wait for `backward`.
        self._target = AnalyticQNetwork(engine, spec, table.views(target))
        self._double, self._normalizes = config.double, config.normalize_observations
        self._live = Weights(0, flat.array, network.all_buffers)
        self._encode = NumpyEncoder(spec)
        self._layout = network.observation_layout
        self._num_actions = network.action_layout.num_parameters
        self._compiled = CompiledDQNLoss(self._num_actions) if engine == "compiled" else None
        self._allocate(config.batch_size)

    def _allocate(self, size: int) -> None:
        self._firsts = np.arange(size) * self._num_actions  # where rows of [M, A] begin
        self._at_values = np.empty((size, self._num_actions), np.float32)

    def gradient(self, batch: Transitions, weights: Array | None) -> tuple[dict[str, float], Array]:
        """Writes the gradient of the loss on M transitions.

        Args:
            batch: M transitions.
            weights: Importance of each, [M]; None: all alike.

        Returns:
            Scalars under their public names, and targets less values [M].
        """
        if self._normalizes:
            self._encode.set_weights(self._live)
        if self._compiled is not None and self._layout.mask is None:
            return self._compiled_gradient(self._compiled, batch, weights)
        size = len(batch.returns)
        if size != len(self._firsts):
            self._allocate(size)
        following = self._encode(batch.next_observations)
        next_values = self._target.forward(following)
        choosing = self._network.forward(following) if self._double else next_values
        mask = self._layout.mask_of(batch.next_observations)
        targets = next_values.take(self._firsts + best_allowed(choosing, mask))
        targets *= batch.discounts
        targets += batch.returns
        done = self._firsts + batch.actions
        values = self._network.forward(self._encode(batch.observations)).take(done)
        errors = targets - values
        slopes = np.maximum(np.minimum(errors, ONE), -ONE)  # of Huber's loss, quadratic within 1
        weighted = slopes if weights is None else slopes * weights
        loss = weighted.dot(errors) - 0.5 * weighted.dot(slopes)
        self._at_values.fill(0)
        self._at_values.reshape(-1)[done] = weighted * np.float32(-1 / size)
        self._network.backward(self._at_values)
        return {
            "loss": float(loss) / size,
            "q_value": float(np.add.reduce(values)) / size,
        }, errors

    def _compiled_gradient(
        self, loss: CompiledDQNLoss, batch: Transitions, weights: Array | None
    ) -> tuple[dict[str, float], Array]:
        """`gradient`, with all but the passes through the networks in two calls."""
        following = self._encode(batch.next_observations)
        next_values = self._target.forward(following)
        choosing = self._network.forward(following) if self._double else next_values
        loss.set_targets(next_values, choosing, batch.returns, batch.discounts)
        values = self._network.forward(self._encode(batch.observations))
        at_values, errors, mean, q_value = loss.gradient(values, batch.actions, weights)
        self._network.backward(at_values)
        return {"loss": mean, "q_value": q_value}, errors


class AnalyticQNetwork:
    """Q of every action as `QNetwork` has it, from features; and back."""

    def __init__(
        self,
        engine: str,
        spec: QNetworkSpec,
        parameters: Mapping[str, Array],
        gradients: Mapping[str, Array] | None = None,
    ) -> None:
        """Takes views.

        Args:
            engine: `numpy` or `compiled`.
            spec: Of the network.
            parameters: By the names they have in `QNetwork`.
            gradients: Where `backward` writes; None: it is never called.
        """
        torso = linear_names("torso", len(spec.torso_sizes))
        stream = linear_names("advantage_stream", len(spec.stream_sizes))
        views = parameters, gradients, spec.activation
        self._value: MLP | None = None
        if not spec.dueling:  # one chain
            torso, stream = [], [*torso, *stream]
        self._torso = make_mlp(engine, torso, *views)
        self._advantage = make_mlp(engine, [*stream, "advantage_head"], *views, head=True)
        if spec.dueling:
            stream = linear_names("value.0", len(spec.stream_sizes))
            self._value = make_mlp(engine, [*stream, "value.1"], *views, head=True)

    def forward(self, features: Array) -> Array:
        """Q [N, A] of features [N, F]; valid until the next call."""
        hidden = self._torso.forward(features)
        advantages = self._advantage.forward(hidden)
        if self._value is None:
            return advantages
        values = self._value.forward(hidden)
        centred: Array = advantages - advantages.mean(1, keepdims=True)
        centred += values
        return centred

    def backward(self, gradient: Array) -> None:
        """Writes the gradients of all parameters from that at Q [N, A], which is overwritten."""
        if self._value is None:
            self._advantage.backward(gradient)
            return
        total = gradient.sum(1, keepdims=True)
        gradient -= total / np.float32(gradient.shape[1])
        hidden = self._advantage.backward(gradient, to_inputs=True)
        hidden += self._value.backward(total, to_inputs=True)
        self._torso.backward(hidden)
