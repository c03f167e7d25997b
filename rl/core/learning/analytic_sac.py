"""The gradients of SAC's losses by hand, for continuous actions; and the engine `numpy`.

`SACLearner.critic_loss` and `policy_loss` are the definitions; tests hold these to their gradients,
to 1e-5. Shapes: M transitions of a batch, F features, d numbers of an action; 2 is the critics.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from gymnasium import spaces

from rl.core.data.replay import Transitions
from rl.core.data.tree import Array, Tree
from rl.core.data.weights import Weights
from rl.core.learning.analytic_critics import AnalyticTwinCritics
from rl.core.learning.analytic_mlp import AnalyticMLP, linear_names
from rl.core.learning.critics import Critics
from rl.core.learning.engines import network_obstacles
from rl.core.learning.flat import FlatParameters
from rl.core.models.numpy_encoder import NumpyEncoder
from rl.core.models.plain import PlainNetwork
from rl.core.models.spec import LOG_STD_BOUNDS

if TYPE_CHECKING:
    from rl.core.models.modules import Module

__all__ = ["AnalyticSAC", "Named", "NumpySAC", "Views", "sac_obstacles"]

Named = Mapping[str, Array]
Views = tuple[Named, Named]
"""Of parameters, and of their gradients."""

LOG_SQRT_2PI = np.float32(0.5 * math.log(2 * math.pi))
LOG_2 = np.float32(math.log(2))
HALF, ONE, TWO = np.float32(0.5), np.float32(1), np.float32(2)


def sac_obstacles(policy: PlainNetwork | Module) -> Iterator[str]:
    """Yields what of a run has no form here."""
    if isinstance(policy.action_layout.space, spaces.Discrete):
        yield "discrete actions of SAC"
    else:
        yield from network_obstacles(policy)


class AnalyticSAC(ABC):
    """Both losses of SAC with a squashed Gaussian policy, whoever computes their gradients."""

    def __init__(self, policy: PlainNetwork, flat: FlatParameters, critics: Critics) -> None:
        """Takes views of a learner's vectors; it computes with whatever stands there.

        Args:
            policy: Whose vector is that of `flat`.
            flat: Its `gradient_array` is written.
            critics: Plain ones; the `gradient_array` of theirs is written.
        """
        spec, table = policy.spec, policy.parameter_table()
        names = [*linear_names("torso", len(spec.hidden_sizes)), "head"]
        own = table.views(flat.array), table.views(flat.gradient_array)
        table = critics.table
        views = table.views(critics.flat.array), table.views(critics.flat.gradient_array)
        buffers = policy.all_buffers
        self._middle, self._inverse = buffers["bounds.middle"], buffers["bounds.inverse"]
        self._normalizes = spec.normalize_observations
        self._live = Weights(0, flat.array, buffers)
        self._encode = NumpyEncoder(spec)
        self._make(names, own, views, table.views(critics.slow.array), spec.activation)

    @abstractmethod
    def _make(
        self, names: Sequence[str], policy: Views, critics: Views, target: Named, activation: str
    ) -> None:
        """Makes the networks.

        Args:
            names: Of the policy's layers, first to last.
            policy: Its parameters and gradients by name.
            critics: Those of the critics, as `TwinCritics` names them.
            target: Parameters of the target critics, like theirs.
            activation: Of all of them.
        """

    def _features(self, observations: Tree) -> Array:
        if self._normalizes:
            self._encode.set_weights(self._live)
        return self._encode(observations)

    @abstractmethod
    def critic_gradient(
        self, batch: Transitions, noise: Array, ent_coef: float, weights: Array | None
    ) -> tuple[dict[str, float], Array]:
        """Writes the gradient of the critics' loss.

        Args:
            batch: M transitions.
            noise: Of the actions that follow, standard normal [M, d].
            ent_coef: alpha.
            weights: Importance of each, [M]; None: all alike.

        Returns:
            Scalars under their public names, and errors [2, M].
        """

    @abstractmethod
    def policy_gradient(
        self, observations: Tree, noise: Array, ent_coef: float
    ) -> tuple[float, float]:
        """Writes the gradient of the policy's loss; returns the loss and the mean log pi."""


class NumpySAC(AnalyticSAC):
    """The gradients in numpy; `CompiledSAC` has them in C."""

    def _make(
        self, names: Sequence[str], policy: Views, critics: Views, target: Named, activation: str
    ) -> None:
        self._policy = AnalyticMLP(names, *policy, activation, head=True)
        self._critics = AnalyticTwinCritics(*critics, activation)
        self._target = AnalyticTwinCritics(target, None, activation)

    def critic_gradient(
        self, batch: Transitions, noise: Array, ent_coef: float, weights: Array | None
    ) -> tuple[dict[str, float], Array]:
        following = self._features(batch.next_observations)
        next_actions, log_probs, _, _ = self._sample(following, noise)
        values = self._target.forward(np.concatenate((following, next_actions), 1))
        targets = np.minimum(values[0], values[1])
        targets -= np.float32(ent_coef) * log_probs
        targets *= batch.discounts
        targets += batch.returns
        own = (batch.actions - self._middle) * self._inverse
        values = self._critics.forward(np.concatenate((self._features(batch.observations), own), 1))
        errors: Array = values - targets
        weighted = errors if weights is None else errors * weights
        size = errors.shape[1]
        loss = 0.5 * float(np.vdot(weighted, errors)) / size
        self._critics.backward(weighted * np.float32(1 / size), parameters=True)
        return {"critic_loss": loss, "q_value": float(values.mean())}, errors

    def policy_gradient(
        self, observations: Tree, noise: Array, ent_coef: float
    ) -> tuple[float, float]:
        features = self._features(observations)
        actions, log_probs, spread, inside = self._sample(features, noise)
        values = self._critics.forward(np.concatenate((features, actions), 1))
        size = len(actions)
        share, weight = np.float32(1 / size), np.float32(ent_coef / size)
        lesser = values[0] <= values[1]
        slopes = np.stack((lesser, ~lesser)) * -share
        loss = float(np.vdot(slopes, values)) + ent_coef * float(log_probs.mean())
        back = self._critics.backward(slopes, parameters=False)[..., features.shape[1] :]
        before = back[0] + back[1]
        before *= ONE - actions * actions
        before += TWO * weight * actions  # of log(1 - tanh^2)
        gradient = np.empty((size, 2 * actions.shape[1]), np.float32)
        means, deviations = np.split(gradient, 2, axis=1)
        means[:] = before
        np.multiply(before, spread, out=deviations)
        deviations -= weight
        deviations *= inside
        self._policy.backward(gradient)
        return loss, float(log_probs.mean())

    def _sample(self, features: Array, noise: Array) -> tuple[Array, Array, Array, Array]:
        """Actions in (-1, 1), their log-density [M], noise times deviation, who is not clamped."""
        mean, raw = np.split(self._policy.forward(features), 2, axis=1)
        lowest, highest = (np.float32(bound) for bound in LOG_STD_BOUNDS)
        log_std = np.minimum(np.maximum(raw, lowest), highest)
        spread = np.exp(log_std) * noise
        before = mean + spread
        log_slope = TWO * (LOG_2 - before - np.logaddexp(np.float32(0), -TWO * before))
        log_prob = (-HALF * noise * noise - log_std - LOG_SQRT_2PI - log_slope).sum(1)
        return np.tanh(before), log_prob, spread, raw == log_std
