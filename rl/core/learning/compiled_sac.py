"""The gradients of SAC's losses on compiled kernels: the engine `compiled`.

Shapes: M transitions of a batch, F features, d numbers of an action; 2 is the critics.
"""

from __future__ import annotations

import numpy as np

from rl.core.data.replay import Transitions
from rl.core.data.tree import Array, Tree
from rl.core.kernels.sac import CompiledSACLosses
from rl.core.learning.analytic_critics import CompiledTwinCritics
from rl.core.learning.analytic_sac import AnalyticSAC
from rl.core.learning.flat import FlatParameters
from rl.core.models.policy_network import SquashedPolicy
from rl.core.models.spec import LOG_STD_BOUNDS
from rl.core.models.twin_critics import TwinCritics

__all__ = ["CompiledSAC"]


class CompiledSAC(AnalyticSAC):
    """`AnalyticSAC`, with what lies between passes through the networks in a call each."""

    def __init__(
        self,
        policy: SquashedPolicy,
        flat: FlatParameters,
        critics: TwinCritics,
        critics_flat: FlatParameters,
        target: Array,
    ) -> None:
        super().__init__(policy, flat, critics, critics_flat, target, "compiled")
        own, target_views, activation = self._views
        self._both = CompiledTwinCritics(*own, activation)
        self._both_targets = CompiledTwinCritics(target_views, None, activation)
        self._losses = CompiledSACLosses(len(self._middle), LOG_STD_BOUNDS)
        # What the critics see, [M, F + d]: of what was done, and of what the policy would do.
        self._done = self._drawn = np.empty((0, 0), np.float32)

    def _inputs(self, features: Array) -> None:
        """Makes room for as many rows as there are features."""
        shape = len(features), features.shape[1] + len(self._middle)
        if self._done.shape != shape:
            self._done, self._drawn = (np.empty(shape, np.float32) for _ in range(2))

    def critic_gradient(
        self, batch: Transitions, noise: Array, ent_coef: float, weights: Array | None
    ) -> tuple[dict[str, float], Array]:
        losses = self._losses
        following = self._features(batch.next_observations)
        self._inputs(following)
        split = following.shape[1]
        done, drawn = self._done, self._drawn
        drawn[:, :split] = following
        losses.sample(self._policy.forward(following), noise, drawn[:, split:])
        targets = self._both_targets.forward(drawn)
        losses.set_targets(targets, batch.returns, batch.discounts, ent_coef)
        done[:, :split] = self._features(batch.observations)
        own = np.subtract(batch.actions, self._middle, out=done[:, split:])
        own *= self._inverse
        slopes, errors, loss, value = losses.critic_slopes(self._both.forward(done), weights)
        self._both.backward(slopes, parameters=True)
        return {"critic_loss": loss, "q_value": value}, errors

    def policy_gradient(
        self, observations: Tree, noise: Array, ent_coef: float
    ) -> tuple[float, float]:
        losses = self._losses
        features = self._features(observations)
        self._inputs(features)
        split, drawn = features.shape[1], self._drawn
        drawn[:, :split] = features
        log_prob = losses.sample(self._policy.forward(features), noise, drawn[:, split:])
        slopes, value = losses.lesser_slopes(self._both.forward(drawn))
        backs = self._both.backward(slopes, parameters=False)
        gradient = losses.policy_slopes([back[:, split:] for back in backs], ent_coef)
        self._policy.backward(gradient)
        return ent_coef * log_prob - value, log_prob
